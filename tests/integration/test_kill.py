"""Runs that are killed at random moments leave no half model, and the same command finishes the work.

Moments are drawn over the whole length of a run, every other time over its publishing alone, which is short.
`--rounds N` sets how many outputs are tried on disk and on S3 each, `--seed N` draws the same moments again.
"""

import os
import random
import shutil
import subprocess
import time

from support import TestCase, bytes_of, commit_of, finish, start

LOCAL_ROUNDS, S3_ROUNDS = 12, 8


class Kind:
    """One way of writing an output, measured by undisturbed runs."""

    def __init__(self, test, name, make_place, recipe, in_place):
        self.name, self.make_place, self.recipe, self.in_place = name, make_place, recipe, in_place
        times = []
        for number in range(2):
            place = self.place(f"undisturbed {name} {number}")
            begin = time.monotonic()
            result = test.run_ok(recipe, "--out", place.uri)
            publishing = sum(stage["seconds"] for stage in result.json["stages"] if stage["name"] == "publish")
            times.append((time.monotonic() - begin, publishing))
        # What follows (the last rename, removing the work area) belongs to publishing here.
        self.seconds, self.publishing = min(times)[0], min(times)[1] + 0.02
        self.reference = bytes_of(place)
        test.assert_complete(place, self.reference)

    def place(self, name):
        place = self.make_place(name)
        if self.in_place:
            os.makedirs(place.path)
        return place


class Kill(TestCase):
    def kinds(self, on_s3):
        inputs = self.world.family_uri("large") if on_s3 else self.world.family("large")
        whole = self.recipe("awd_ties", inputs, name="whole.yaml")
        shards = self.recipe("awd", inputs, shard="5MB", name="shards.yaml")
        if on_s3:
            return [Kind(self, "one file", self.s3_place_apart, whole, False),
                    Kind(self, "shards", self.s3_place_apart, shards, False)]
        return [Kind(self, "one file", self.local_place_apart, whole, False),
                Kind(self, "shards", self.local_place_apart, shards, False),
                Kind(self, "shards into an existing folder", self.local_place_apart, shards, True),
                Kind(self, "one file into an existing folder", self.local_place_apart, whole, True)]

    def local_place_apart(self, name):
        place = self.local_place()
        return type(place)(os.path.join(self.folder, name))

    def s3_place_apart(self, name):
        place = self.s3_place()
        return type(place)(f"{self.key}/{name}")

    def check_after_kill(self, kind, place):
        """Complete with the right bytes, or not a model at all. Returns whether it is complete."""
        commit = commit_of(place)
        if commit is not None:
            self.assertEqual(bytes_of_visible(place), kind.reference, "there is a commit object, but not the model")
            return True
        if not kind.in_place and hasattr(place, "path"):
            self.assertFalse(place.exists(), f"not committed, but there: {place.names()}")
        return False

    def kill_at_random(self, kind, place, rng):
        """Starts a run and kills it. Returns when that was, or None if it had ended before."""
        process = start("run", kind.recipe, "--out", place.uri, "-o", "json")
        if rng.random() < 0.5:
            moment = rng.uniform(0.0, kind.seconds)
            what = f"{moment:.3f} s after its start"
        else:
            moment = rng.uniform(0.0, kind.publishing)
            what = f"{moment:.3f} s after the first file was published"
            self.wait_for(lambda: place.is_publishing() or process.poll() is not None)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            finish(process)
            return what
        result = finish(process)
        self.assertEqual(result.code, 0, str(result))
        return None

    def one_round(self, kind, number, rng, tally):
        """An output that is killed one to three times and then finished."""
        place = kind.place(f"round{number}")
        moments, complete = [], False
        for _ in range(rng.randint(1, 3)):
            moment = self.kill_at_random(kind, place, rng)
            complete = self.check_after_kill(kind, place)
            if moment is None:
                self.assertTrue(complete)
                break
            moments.append(moment)
            tally["complete" if complete else "unfinished"] += 1
        with self.subTest(f"round {number} ({kind.name}), killed {', '.join(moments)}"):
            result = self.run_ok(kind.recipe, "--out", place.uri)
            # A server of objects may carry out the killed run's last request after we looked.
            if complete or hasattr(place, "path"):
                self.assertEqual(result.json["already_complete"], complete)
            tally["resumed"] += result.json["resumed"]
            self.assert_complete(place, kind.reference)
        if hasattr(place, "path"):
            shutil.rmtree(place.folder)
        else:
            self.s3.remove(place.prefix + "/")
        return bool(moments)

    def rounds(self, on_s3, count):
        rng = random.Random(f"{self.world.seed} {on_s3}")
        kinds = self.kinds(on_s3)
        tally = {"unfinished": 0, "complete": 0, "resumed": 0}
        number = tries = 0
        while (number < count or tally["resumed"] == 0) and tries < 5 * count:
            tries += 1
            # A round in which every run was faster than the kill counts for nothing.
            number += self.one_round(kinds[number % len(kinds)], tries, rng, tally)
        print(f"     {number} outputs; {tally['unfinished']} kills before and {tally['complete']} after the commit; "
              f"{tally['resumed']} finishing runs found stored work", flush=True)
        self.assertGreaterEqual(number, count, "too few kills hit a run in progress")
        self.assertGreater(tally["resumed"], 0)

    def test_local(self):
        self.rounds(False, self.world.rounds or LOCAL_ROUNDS)

    def test_s3(self):
        self.rounds(True, self.world.rounds or S3_ROUNDS)


def bytes_of_visible(place):
    """As a loader sees it: hidden names do not count."""
    return {name: digest for name, digest in bytes_of(place).items() if not os.path.basename(name).startswith(".")}

