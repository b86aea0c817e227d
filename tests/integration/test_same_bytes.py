"""One recipe, one result: threads, budget, chunks, storage and shards change no byte of the merged tensors."""

import os

import models
from support import METHODS, LocalPlace, TestCase, bytes_of

VARIATIONS = [
    ("threads_1", ["--threads", "1"]),
    ("threads_4", ["--threads", "4"]),
    ("budget_64MiB", ["--memory-budget", "64MiB"]),
    ("budget_1GiB", ["--memory-budget", "1GiB"]),
    ("chunk_64KiB", ["--chunk-size", "64KiB"]),
    ("chunk_16MiB", ["--chunk-size", "16MiB"]),
]


class SameBytes(TestCase):
    def check_method(self, method, shard):
        # Singular values of large matrices take long; the small family has what matters.
        family = "small" if method == "iso_c" else "large"
        local, remote = self.world.family(family), self.world.family_uri(family)
        first = self.local_place("first")
        result = self.run_ok(self.recipe(method, local, shard=shard), "--out", first.uri)
        self.assertNotIn("does nothing", result.err)
        reference = bytes_of(first)
        self.assertEqual(first.debris(), [])
        self.assertIn("config.json", reference)
        self.assertIn("tokenizer.json", reference)
        self.assertEqual("model.safetensors.index.json" in reference, shard is not None)
        self.check_content(first.path, os.path.join(local, "base"))
        for name, options in VARIATIONS:
            with self.subTest(name):
                place = self.local_place_apart(name)
                self.run_ok(self.recipe(method, local, shard=shard), "--out", place.uri, *options)
                self.assert_complete(place, reference)
        for name, inputs, place in [
            ("file_to_s3", local, self.s3_place("from-file")),
            ("s3_to_file", remote, self.local_place_apart("s3_to_file")),
            ("s3_to_s3", remote, self.s3_place("from-s3")),
            ("s3_to_s3_64MiB", remote, self.s3_place("narrow")),
        ]:
            with self.subTest(name):
                options = ["--memory-budget", "64MiB", "--threads", "3"] if name.endswith("64MiB") else []
                self.run_ok(self.recipe(method, inputs, shard=shard), "--out", place.uri, *options)
                self.assertEqual(bytes_of(place), reference)
        self.assertEqual(self.s3.uploads(self.key), [])
        return models.read_folder(first.path)

    def check_method_sharded(self, method, shard):
        family = "small" if method == "iso_c" else "large"
        places = [self.local_place_apart("sharded"), self.s3_place("sharded")]
        for place in places:
            self.run_ok(self.recipe(method, self.world.family(family), shard=shard), "--out", place.uri)
        reference = bytes_of(places[0])
        self.assertGreater(sum(name.startswith("model-") for name in reference), 2)
        self.assertEqual(bytes_of(places[1]), reference)
        narrow = self.local_place_apart("sharded-narrow")
        self.run_ok(self.recipe(method, self.world.family(family), shard=shard), "--out", narrow.uri, "--threads", "1",
                    "--memory-budget", "64MiB", "--chunk-size", "64KiB")
        self.assert_complete(narrow, reference)
        return models.read_folder(places[0].path)

    def local_place_apart(self, name):
        return LocalPlace(os.path.join(self.folder, "apart", name))

    def check_content(self, folder, base):
        merged, old = models.read_folder(folder), models.read_folder(base)
        self.assertEqual(sorted(merged), sorted(old))
        changed = 0
        for name, (dtype, array) in old.items():
            self.assertEqual((merged[name][0], merged[name][1].shape), (dtype, array.shape), name)
            changed += dtype != "I64" and merged[name][1].tobytes() != array.tobytes()
            if dtype == "I64":
                self.assertEqual(merged[name][1].tobytes(), array.tobytes(), name)
        self.assertGreater(changed, len(old) // 2)


def add_method(method):
    def test(self):
        whole = self.check_method(method, None)
        shard = "400KB" if method == "iso_c" else "9MB"
        if method in ("awd", "ties", "iso_c"):
            parts = self.check_method_sharded(method, shard)
            for name, (dtype, array) in whole.items():
                self.assertEqual(parts[name][1].tobytes(), array.tobytes(), f"{name} differs when sharded")

    setattr(SameBytes, f"test_{method}", test)


for each in METHODS:
    add_method(each)
