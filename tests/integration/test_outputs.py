"""Outputs that exist, that are half done by another recipe, that may not be written, that are being written."""

import os
import shutil
import signal

from support import LocalPlace, TestCase, bytes_of, cli, commit_of, finish

NOBODY = 65534


class Output(TestCase):
    def setUp(self):
        super().setUp()
        self.inputs = self.world.family("small")
        self.place = self.local_place()

    def refused_and_unchanged(self, place, reason, *texts):
        before = {name: place.read(name) for name in place.names()}
        beside = place.debris()
        result = cli("run", self.recipe("ties", self.inputs), "--out", place.uri, "-o", "json")
        self.refused(result, reason, 3, *texts)
        self.assertEqual({name: place.read(name) for name in place.names()}, before)
        self.assertEqual(place.debris(), beside)

    def test_is_a_file(self):
        with open(self.place.path, "w", encoding="utf-8") as file:
            file.write("precious")
        result = cli("run", self.recipe("ties", self.inputs), "--out", self.place.uri, "-o", "json")
        self.refused(result, "OUTPUT_EXISTS", 3, self.place.path, "it is a file")
        with open(self.place.path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "precious")
        self.assertEqual(self.place.debris(), [])

    def test_folder_with_something(self):
        os.makedirs(self.place.path)
        with open(os.path.join(self.place.path, "notes.txt"), "w", encoding="utf-8") as file:
            file.write("precious")
        self.refused_and_unchanged(self.place, "OUTPUT_EXISTS", self.place.path, "notes.txt")

    def test_another_model(self):
        shutil.copytree(os.path.join(self.inputs, "m3"), self.place.path)
        self.refused_and_unchanged(self.place, "OUTPUT_EXISTS", self.place.path, "another model")

    def test_model_of_another_plan(self):
        self.run_ok(self.recipe("average", self.inputs), "--out", self.place.uri)
        self.refused_and_unchanged(self.place, "OUTPUT_EXISTS", self.place.path, "another model")

    def test_input_as_output(self):
        shutil.copytree(os.path.join(self.inputs, "m1"), self.place.path)
        recipe = self.write(f"method: average\nmodels: [{self.place.path}, {self.inputs}/m2]\n")
        result = cli("run", recipe, "--out", self.place.uri, "-o", "json")
        self.refused(result, "OUTPUT_EXISTS", 3, self.place.path)

    def test_another_model_on_s3(self):
        place = self.s3_place()
        self.s3.put_folder(os.path.join(self.inputs, "m3"), place.key)
        self.refused_and_unchanged(place, "OUTPUT_EXISTS", place.uri, "another model")

    def test_same_plan_again(self):
        for place in (self.place, self.s3_place()):
            recipe = self.recipe("ties", self.inputs)
            first = self.run_ok(recipe, "--out", place.uri)
            again = self.run_ok(recipe, "--out", place.uri)
            self.assertEqual((first.json["already_complete"], again.json["already_complete"]), (False, True))
            self.assertEqual(again.json["files"], first.json["files"])

    # Half done by another recipe.

    def killed(self, place, inputs):
        recipe = self.recipe("awd_ties", inputs, shard="9MB", name="a.yaml")
        for _ in range(5):
            process = self.stop_when(place.has_results, recipe, "--out", place.uri, "--threads", "1", "--chunk-size",
                                     "64KiB")
            if process is not None:
                process.kill()
                finish(process)
                return recipe
        return self.fail("every run ended too soon")

    def check_other_plan(self, place, inputs, in_place=False):
        self.killed(place, inputs)
        other = self.recipe("average", inputs, shard="9MB", name="b.yaml")
        left = place.debris()
        self.assertNotEqual(left, [])
        result = cli("run", other, "--out", place.uri, "-o", "json")
        self.refused(result, "OUTPUT_INCOMPLETE", 3, f"orthomerge clean {place.uri}", f".{place.name}.orthomerge-")
        self.assertEqual(place.debris(), left, "a refused run must leave the other's work alone")
        cleaned = cli("clean", place.uri, "-o", "json")
        self.assertEqual(cleaned.code, 0, str(cleaned))
        self.assertNotEqual(cleaned.json["removed"], [])
        self.assertEqual(place.debris(), [], "clean left this")
        self.assertEqual(place.names(), [])
        self.assertEqual(place.exists(), in_place)
        self.run_ok(other, "--out", place.uri)
        self.assertEqual(place.debris(), [])
        nothing = cli("clean", place.uri)
        self.assertEqual(nothing.code, 0)
        self.assertIn("nothing to remove", nothing.out)
        self.assertIsNotNone(commit_of(place), "clean must not touch a finished model")

    def test_incomplete_of_another_plan(self):
        self.check_other_plan(self.place, self.world.family("large"))

    def test_incomplete_of_another_plan_in_existing_folder(self):
        os.makedirs(self.place.path)
        self.check_other_plan(self.place, self.world.family("large"), in_place=True)

    def test_incomplete_of_another_plan_on_s3(self):
        self.check_other_plan(self.s3_place(), self.world.family_uri("large"))

    def test_clean_spares_what_is_not_ours(self):
        os.makedirs(self.place.path)
        for name in ("notes.txt", "model-00001-of-00002.safetensors"):
            with open(os.path.join(self.place.path, name), "w", encoding="utf-8") as file:
                file.write("precious")
        self.assertEqual(cli("clean", self.place.uri).code, 0)
        self.assertEqual(len(self.place.names()), 2)
        remote = self.s3_place()
        self.s3.put(remote.key + "/model-00001-of-00002.safetensors", b"precious")
        self.s3.put(remote.key + "-2/model.safetensors", b"precious")
        self.assertEqual(cli("clean", remote.uri).code, 0)
        self.assertEqual(len(self.s3.list(self.key)), 2)

    def check_models_below(self, parent):
        """The folder of finished models is no output, and cleaning it must not touch them."""
        child = type(parent)(parent.path if hasattr(parent, "path") else parent.key, "a")
        self.run_ok(self.recipe("average", self.inputs, shard="400KB"), "--out", child.uri)
        before = {name: parent.read(name) for name in parent.names()}
        for method in ("average", "ties"):  # the same plan, and another
            result = cli("run", self.recipe(method, self.inputs, shard="400KB"), "--out", parent.uri, "-o", "json")
            self.refused(result, "OUTPUT_EXISTS", 3, parent.uri, "it holds a/")
            self.assertNotIn("orthomerge clean", result.message)
        cleaned = cli("clean", parent.uri, "-o", "json")
        self.assertEqual((cleaned.code, cleaned.json["removed"]), (0, []), str(cleaned))
        self.assertEqual({name: parent.read(name) for name in parent.names()}, before)

    def test_models_below(self):
        self.check_models_below(self.place)

    def test_models_below_on_s3(self):
        self.check_models_below(self.s3_place())

    def test_clean_spares_unfinished_work_below(self):
        for parent, inputs in [(self.place, self.world.family("large")),
                               (self.s3_place(), self.world.family_uri("large"))]:
            child = type(parent)(parent.path if hasattr(parent, "path") else parent.key, "a")
            recipe = self.killed(child, inputs)
            before = parent.names()
            cleaned = cli("clean", parent.uri, "-o", "json")
            self.assertEqual((cleaned.code, cleaned.json["removed"]), (0, []), str(cleaned))
            self.assertEqual(parent.names(), before)
            self.assertTrue(self.run_ok(recipe, "--out", child.uri).json["resumed"])

    # Two at once.

    def test_plan_running(self):
        recipe = self.recipe("awd_ties", self.world.family("large"))
        process = self.stop_when(self.place.has_results, recipe, "--out", self.place.uri, "--threads", "1",
                                 "--chunk-size", "64KiB")
        self.assertIsNotNone(process, "the first run ended too soon")
        second = cli("run", recipe, "--out", self.place.uri, "-o", "json")
        self.refused(second, "PLAN_RUNNING", 6)
        other = cli("run", self.recipe("average", self.inputs), "--out", self.place.uri, "-o", "json")
        self.refused(other, "PLAN_RUNNING", 6)
        clean = cli("clean", self.place.uri, "-o", "json")
        self.refused(clean, "PLAN_RUNNING", 6)
        process.send_signal(signal.SIGCONT)
        first = finish(process)
        self.assertEqual(first.code, 0, str(first))
        self.assertEqual(self.place.debris(), [])

    def test_two_at_once_on_s3(self):
        """Both may work; whatever each says, one whole model is there."""
        inputs, place = self.world.family_uri("large"), self.s3_place()
        recipe = self.recipe("awd", inputs, shard="9MB")
        reference = self.local_place("reference")
        self.run_ok(recipe, "--out", reference.uri)
        process = self.stop_when(place.has_results, recipe, "--out", place.uri, "--threads", "1")
        self.assertIsNotNone(process, "the first run ended too soon")
        second = cli("run", recipe, "--out", place.uri, "-o", "json")
        self.assertEqual(second.code, 0, str(second))
        process.send_signal(signal.SIGCONT)
        first = finish(process)
        self.assertEqual(bytes_of(place), bytes_of(reference), f"{first}\n{second}")
        final = self.run_ok(recipe, "--out", place.uri)
        self.assertTrue(final.json["already_complete"])
        self.assert_complete(place, bytes_of(reference))

    # Permissions.

    def as_nobody(self, *arguments):
        """Root may read and write everything, so the program runs as somebody else."""
        if os.geteuid() != 0:
            return cli(*arguments)
        programs = os.path.join(self.folder, "bin")
        if not os.path.exists(programs):
            shutil.copytree(self.world.bin, programs, ignore=lambda _, names: [
                name for name in names if not name.startswith(("orthomerge", "liborthomerge"))])
            os.chmod(programs, 0o755)
        return cli(*arguments, program=os.path.join(programs, "orthomerge"), user=NOBODY, group=NOBODY,
                   extra_groups=[])

    def open_place(self):
        place = LocalPlace(os.path.join(self.folder, "open"))
        os.chmod(place.folder, 0o777)
        return place

    def test_unreadable_input(self):
        folder = os.path.join(self.folder, "secret")
        shutil.copytree(os.path.join(self.inputs, "m1"), folder)
        os.chmod(os.path.join(folder, "model.safetensors"), 0)
        recipe = self.write(f"method: average\nmodels: [{folder}, {self.inputs}/m2]\n")
        place = self.open_place()
        self.refused(self.as_nobody("run", recipe, "--out", place.uri, "-o", "json"), "PERMISSION_DENIED", 7,
                     os.path.join(folder, "model.safetensors"))
        self.assert_nothing_at(place)

    def test_unwritable_parent(self):
        os.chmod(self.place.folder, 0o555)
        recipe = self.recipe("average", self.inputs)
        self.refused(self.as_nobody("run", recipe, "--out", self.place.uri, "-o", "json"), "PERMISSION_DENIED", 7,
                     self.place.folder)
        self.assert_nothing_at(self.place)
        os.chmod(self.place.folder, 0o755)

    def test_unreadable_recipe(self):
        recipe = self.recipe("average", self.inputs)
        os.chmod(recipe, 0)
        self.refused(self.as_nobody("run", recipe, "--out", self.place.uri, "-o", "json"), "PERMISSION_DENIED", 7,
                     recipe)

    def test_allowed_as_nobody(self):
        """The control: the same user with the rights succeeds."""
        place = self.open_place()
        result = self.as_nobody("run", self.recipe("average", self.inputs), "--out", place.uri, "-o", "json")
        self.assertEqual(result.code, 0, str(result))
        self.assertEqual(place.debris(), [])

    # Odd names.

    def test_odd_names(self):
        reference = self.local_place("reference")
        recipe = self.recipe("average", self.inputs)
        self.run_ok(recipe, "--out", reference.uri)
        for name in ("with space", "üñí", "a+b=c&d", "100%41", "dot.s"):
            for place in (self.local_place(name), self.s3_place(name)):
                with self.subTest(place.uri):
                    self.run_ok(recipe, "--out", place.uri)
                    self.assertEqual(bytes_of(place), bytes_of(reference))

    def test_deep_new_folders(self):
        place = LocalPlace(os.path.join(self.folder, "x"))
        os.rmdir(place.folder)
        self.run_ok(self.recipe("average", self.inputs), "--out", place.uri)
        self.assertIsNotNone(commit_of(place))

    def test_relative_to_the_recipe(self):
        shutil.copytree(self.inputs, os.path.join(self.folder, "here"))
        recipe = self.write("method: average\nmodels: [here/m1, here/m2]\noutput: {uri: here/out}\n")
        self.run_ok(recipe, cwd="/")
        self.assertEqual(commit_of(LocalPlace(os.path.join(self.folder, "here"))), "model.safetensors")
