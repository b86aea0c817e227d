"""Runs that are killed at random moments leave no half model, and the same command finishes the work.

Moments are drawn over the whole length of an undisturbed run, every other time over its publishing alone, which is
short. `--rounds N` sets how many outputs are tried on disk and on S3 each, `--seed N` repeats the same moments.
"""

import os
import random
import shutil
import subprocess
import time

from support import TestCase, bytes_of, commit_of, finish, start

LOCAL_ROUNDS, S3_ROUNDS = 12, 8


class Kind:
    """One way of writing an output, measured by an undisturbed run."""

    def __init__(self, test, name, make_place, recipe, in_place):
        self.name, self.make_place, self.recipe, self.in_place = name, make_place, recipe, in_place
        place = self.place("undisturbed")
        begin = time.monotonic()
        result = test.run_ok(recipe, "--out", place.uri)
        self.seconds = time.monotonic() - begin
        publishing = sum(stage["seconds"] for stage in result.json["stages"] if stage["name"] == "publish")
        # What follows publishing (the last rename, removing the work area) counts, too.
        self.publishing = min(self.seconds, publishing + 0.1)
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

    def rounds(self, on_s3, count):
        rng = random.Random(f"{self.world.seed} {on_s3}")
        kinds = self.kinds(on_s3)
        killed = {"nothing yet": 0, "complete": 0, "ended before": 0}
        resumed = 0
        for number in range(count):
            kind = kinds[number % len(kinds)]
            place = kind.place(f"round{number}")
            kills = rng.randint(1, 3)
            for attempt in range(kills):
                late = rng.random() < 0.5
                moment = rng.uniform(kind.seconds - kind.publishing if late else 0.0, kind.seconds)
                what = f"round {number} ({kind.name}), kill {attempt + 1} of {kills} after {moment:.3f} s"
                with self.subTest(what):
                    process = start("run", kind.recipe, "--out", place.uri, "-o", "json")
                    try:
                        process.wait(moment)
                        ended = True
                    except subprocess.TimeoutExpired:
                        ended = False
                        process.kill()
                    result = finish(process)
                    if ended:
                        self.assertEqual(result.code, 0, str(result))
                    complete = self.check_after_kill(kind, place)
                    killed["ended before" if ended else "complete" if complete else "nothing yet"] += 1
            with self.subTest(f"round {number} ({kind.name}), the run that finishes"):
                result = self.run_ok(kind.recipe, "--out", place.uri)
                resumed += result.json["resumed"]
                self.assert_complete(place, kind.reference)
                again = self.run_ok(kind.recipe, "--out", place.uri)
                self.assertTrue(again.json["already_complete"])
            if hasattr(place, "path"):
                shutil.rmtree(place.folder)
            else:
                self.s3.remove(place.prefix + "/")
        print(f"     {count} outputs, kills that left: {killed}; {resumed} finishing runs resumed stored work",
              flush=True)
        self.assertGreater(killed["nothing yet"], 0, "no kill hit a run in progress")

    def test_local(self):
        self.rounds(False, self.world.rounds or LOCAL_ROUNDS)

    def test_s3(self):
        self.rounds(True, self.world.rounds or S3_ROUNDS)


def bytes_of_visible(place):
    """As a loader sees it: hidden names do not count."""
    return {name: digest for name, digest in bytes_of(place).items() if not os.path.basename(name).startswith(".")}

