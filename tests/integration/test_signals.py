"""SIGTERM and SIGINT stop a run in an orderly way; the same command goes on."""

import shutil
import signal

from support import TestCase, bytes_of, cli, commit_of, finish

SLOW = ["--threads", "1", "--chunk-size", "64KiB"]


class Signals(TestCase):
    def stopped(self, place, recipe, number):
        """A run that got the signal when some of its work was stored."""
        for _ in range(5):
            process = self.stop_when(place.has_results, recipe, "--out", place.uri, *SLOW)
            if process is not None:
                process.send_signal(number)
                process.send_signal(signal.SIGCONT)
                result = finish(process)
                if result.code != 0:
                    return result
            cli("clean", place.uri)
            self.remove(place)
        return self.fail("every run was faster than the signal")

    def remove(self, place):
        if hasattr(place, "path"):
            shutil.rmtree(place.path, ignore_errors=True)
        else:
            self.s3.remove(place.key)

    def check(self, place, inputs, number):
        recipe = self.recipe("awd_ties", inputs, shard="9MB")
        reference_place = self.local_place("reference")
        self.run_ok(self.recipe("awd_ties", self.world.family("large"), shard="9MB"), "--out", reference_place.uri)
        reference = bytes_of(reference_place)
        self.remove(reference_place)
        result = self.stopped(place, recipe, number)
        self.refused(result, "CANCELLED", 128 + number, "the same command resumes", f"clean {place.uri}")
        self.assertIsNone(commit_of(place))
        self.assertNotEqual(place.debris(), [], "stored work should be kept")
        again = self.run_ok(recipe, "--out", place.uri)
        self.assertTrue(again.json["resumed"])
        self.assert_complete(place, reference)

    def test_sigterm_local(self):
        self.check(self.local_place(), self.world.family("large"), signal.SIGTERM)

    def test_sigint_local(self):
        self.check(self.local_place(), self.world.family("large"), signal.SIGINT)

    def test_sigterm_s3(self):
        self.check(self.s3_place(), self.world.family_uri("large"), signal.SIGTERM)

    def test_two_signals_end_at_once(self):
        place = self.local_place()
        recipe = self.recipe("awd_ties", self.world.family("large"))
        process = self.stop_when(place.has_results, recipe, "--out", place.uri, *SLOW)
        self.assertIsNotNone(process)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        result = finish(process, timeout=20)
        self.assertIn(result.code, (130, 143))
        self.assertFalse(place.exists())
        self.run_ok(recipe, "--out", place.uri)
        self.assertEqual(place.debris(), [])
