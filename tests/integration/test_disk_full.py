"""A disk without room: said at once where it can be known, and survived where it cannot."""

import os
import resource
import shutil
import signal
import subprocess

import models
from support import LocalPlace, TestCase, bytes_of, cli, commit_of, finish


class DiskFull(TestCase):
    def test_known_from_the_plan(self):
        """A sparse model larger than the disk: refused from its header, nothing is read or written."""
        size = shutil.disk_usage(self.folder).free + (64 << 30)
        header = b'{"huge.weight":{"dtype":"I64","shape":[%d],"data_offsets":[0,%d]}}' % (size // 8, size // 8 * 8)
        header += b" " * (-len(header) % 8)
        folder = os.path.join(self.folder, "huge")
        os.makedirs(folder)
        path = os.path.join(folder, "model.safetensors")
        with open(path, "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + size // 8 * 8)
        place = self.local_place()
        result = cli("run", self.write(f"method: average\nmodels: [{folder}]\n"), "--out", place.uri, "-o", "json",
                     timeout=60)
        self.refused(result, "DISK_FULL", 3, "the output needs", "are free at", place.folder)
        self.assert_nothing_at(place)

    def check_resumes(self, first, place, recipe):
        self.refused(first, "DISK_FULL", 3, "the same command resumes")
        self.assertIsNone(commit_of(place))
        self.assertFalse(place.exists())
        reference = LocalPlace(os.path.join(self.folder, "reference"))
        self.run_ok(recipe, "--out", reference.uri)
        return bytes_of(reference)

    def test_in_the_middle_by_a_limit(self):
        """Where no disk can be mounted, a limit on file sizes does the same to a write."""
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (11 << 20, resource.RLIM_INFINITY))
        place = self.local_place()
        recipe = self.recipe("awd", self.world.family("large"))
        first = cli("run", recipe, "--out", place.uri, "-o", "json", preexec_fn=limit)
        reference = self.check_resumes(first, place, recipe)
        again = self.run_ok(recipe, "--out", place.uri)
        self.assertTrue(again.json["resumed"])
        self.assert_complete(place, reference)

    def test_real_disk(self):
        """A small file system of its own, filled by somebody else while the run is under way."""
        disk = os.path.join(self.folder, "disk")
        os.makedirs(disk)
        holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c",
             'mount -t tmpfs -o size=90m,mode=777 tmpfs "$1" && echo mounted && exec sleep 600', "sh", disk],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self._end, holder)
        if holder.stdout.readline().strip() != "mounted":
            holder.wait()
            # Not a fault of the program; the tests above have covered what matters.
            print(f"     no file system can be mounted here: {holder.stderr.read().strip()}", flush=True)
            return
        # The other namespace's view of the folder.
        place = LocalPlace(f"/proc/{holder.pid}/root{disk}")
        recipe = self.recipe("awd_ties", self.world.family("large"), shard="9MB")
        ballast = os.path.join(place.folder, "ballast")

        def fill(leave):
            with open(ballast, "ab") as file:
                room = shutil.disk_usage(place.folder).free - leave
                while room > 0:
                    room -= file.write(b"\0" * min(room, 1 << 20))

        fill(leave=20 << 20)
        first = cli("run", recipe, "--out", place.uri, "-o", "json")
        self.refused(first, "DISK_FULL", 3, "the output needs", "free at")
        self.assertEqual(place.debris(), ["ballast"])
        os.remove(ballast)

        process = self.stop_when(place.has_results, recipe, "--out", place.uri, "--threads", "1", "--chunk-size",
                                 "64KiB")
        self.assertIsNotNone(process, "the run ended too soon")
        fill(leave=12 << 20)
        process.send_signal(signal.SIGCONT)
        reference = self.check_resumes(finish(process), place, recipe)
        still = cli("run", recipe, "--out", place.uri, "-o", "json")
        self.refused(still, "DISK_FULL", 3)
        os.remove(ballast)
        again = self.run_ok(recipe, "--out", place.uri)
        self.assertTrue(again.json["resumed"])
        self.assert_complete(place, reference)
        self.assertEqual(sorted(models.read_folder(place.path)), sorted(name for name, _, _ in models.LARGE))
