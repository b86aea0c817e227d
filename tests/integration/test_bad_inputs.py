"""Every bad recipe and input has its own reason, exit code and message, and leaves nothing behind."""

import json
import os
import re
import shutil
import signal
import struct
import zipfile

import models
import numpy as np
from support import METHODS, TestCase, bytes_of, cli, commit_of, finish


class BadInput(TestCase):
    def setUp(self):
        super().setUp()
        self.inputs = self.world.family("small")
        self.place = self.local_place()

    def check(self, reason, code, recipe, *texts, options=(), **run_options):
        result = cli("run", recipe, "--out", self.place.uri, "-o", "json", *options, **run_options)
        self.refused(result, reason, code, *texts)
        self.assert_nothing_at(self.place)
        return result

    def check_text(self, reason, code, text, *texts):
        return self.check(reason, code, self.write(text), *texts)

    def copy(self, model="m1"):
        folder = os.path.join(self.folder, "changed")
        shutil.copytree(os.path.join(self.inputs, model), folder)
        return folder

    def changed(self, change, model="m1"):
        """A copy of a model with other tensors."""
        folder = self.copy(model)
        path = os.path.join(folder, "model.safetensors")
        tensors = models.read_file(path)
        change(tensors)
        models.write_file(path, tensors)
        return folder

    def with_model(self, method, folder):
        return self.write(METHODS[method] + f"base: {self.inputs}/base\nmodels: [{self.inputs}/m2, {folder}]\n")

    # Inputs.

    def test_missing_base(self):
        recipe = self.recipe("ties", self.inputs, base="no-base")
        self.check("INPUT_NOT_FOUND", 3, recipe, "base", f"{self.inputs}/no-base")

    def test_missing_model(self):
        recipe = self.recipe("ties", self.inputs, models_used=("m1", "no-model"))
        self.check("INPUT_NOT_FOUND", 3, recipe, f"{self.inputs}/no-model")

    def test_missing_recipe(self):
        self.check("INPUT_NOT_FOUND", 3, os.path.join(self.folder, "none.yaml"), "none.yaml", "no such recipe")

    def test_empty_folder(self):
        os.makedirs(os.path.join(self.folder, "empty"))
        self.check("INPUT_NOT_FOUND", 3, self.with_model("ties", f"{self.folder}/empty"), "no checkpoint in",
                   "model.safetensors")

    def test_missing_shard(self):
        folder = os.path.join(self.folder, "sharded")
        models.write_folder(folder, models.read_folder(os.path.join(self.inputs, "m1")), shards=3)
        os.remove(os.path.join(folder, "model-00002-of-00003.safetensors"))
        self.check("SHARD_MISSING", 3, self.with_model("ties", folder), "model-00002-of-00003.safetensors",
                   "model.safetensors.index.json")

    def test_truncated_file(self):
        folder = self.copy()
        path = os.path.join(folder, "model.safetensors")
        os.truncate(path, os.path.getsize(path) - 5)
        self.check("INPUT_CORRUPT", 3, self.with_model("ties", folder), path)

    def test_truncated_header(self):
        folder = self.copy()
        path = os.path.join(folder, "model.safetensors")
        os.truncate(path, 60)
        self.check("INPUT_CORRUPT", 3, self.with_model("ties", folder), path)

    def test_empty_file(self):
        folder = self.copy()
        path = os.path.join(folder, "model.safetensors")
        os.truncate(path, 0)
        self.check("INPUT_CORRUPT", 3, self.with_model("ties", folder), path)

    def test_not_json(self):
        folder = self.copy()
        path = os.path.join(folder, "model.safetensors")
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", 32) + b"{" * 32 + b"\0" * 64)
        self.check("INPUT_CORRUPT", 3, self.with_model("ties", folder), path)

    def test_other_format(self):
        folder = os.path.join(self.folder, "torch")
        os.makedirs(folder)
        with open(os.path.join(folder, "model.gguf"), "wb") as file:
            file.write(b"GGUF")
        self.check("UNSUPPORTED", 2, self.with_model("ties", folder), "model.gguf", "safetensors")

    def test_pickle_with_a_command(self):
        folder = os.path.join(self.folder, "torch")
        os.makedirs(folder)
        path = os.path.join(folder, "pytorch_model.bin")
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("model/data.pkl", b"\x80\x02cos\nsystem\n(X\x07\0\0\0touch xtR.")
        self.check("UNSUPPORTED", 2, self.with_model("ties", folder), path, "'os system'", "byte 2")

    def test_shape_mismatch(self):
        def change(tensors):
            tensors["blocks.1.bias"] = ("BF16", np.zeros(68, "<u2"))
        folder = self.changed(change)
        self.check("SHAPE_MISMATCH", 2, self.with_model("ties", folder), "blocks.1.bias", "[68]", "[67]", folder)

    def test_missing_tensor(self):
        folder = self.changed(lambda tensors: tensors.pop("blocks.2.weight"))
        self.check("TENSOR_MISSING", 3, self.with_model("ties", folder), "blocks.2.weight", folder)

    def test_unknown_dtype(self):
        folder = self.copy()
        path = os.path.join(folder, "model.safetensors")
        with open(path, "rb") as file:
            data = file.read()
        with open(path, "wb") as file:
            file.write(data.replace(b'"BF16"', b'"BF17"', 1))
        self.check("INPUT_CORRUPT", 3, self.with_model("ties", folder), path, "BF17")

    def test_several_faults_at_once(self):
        recipe = self.recipe("ties", self.inputs, models_used=("m1", "no-1", "no-2"), base="no-base")
        result = self.check("INPUT_NOT_FOUND", 3, recipe, "no-base", "no-1", "no-2")
        self.assertEqual(sum(item["severity"] == "error" for item in result.json["diagnostics"]), 3)

        def change(tensors):
            tensors.pop("blocks.2.weight")
            tensors["blocks.1.bias"] = ("BF16", np.zeros(68, "<u2"))
        result = cli("run", self.with_model("ties", self.changed(change)), "--out", self.place.uri, "-o", "json")
        reasons = {item["reason"] for item in result.json["diagnostics"] if item["severity"] == "error"}
        self.assertEqual(reasons, {"TENSOR_MISSING", "SHAPE_MISMATCH"})
        self.assertIn(result.code, (2, 3))
        self.assert_nothing_at(self.place)

    # Recipes.

    def test_unknown_method(self):
        self.check_text("UNKNOWN_METHOD", 2, "method: tise\nbase: b\nmodels: [m]\n", "'tise'", "did you mean 'ties'?")

    def test_unknown_key(self):
        result = self.check_text("UNKNOWN_KEY", 2,
                                 "method: ties\nbase: b\nmodels: [m]\nparameters:\n  densty: 0.1\n",
                                 "'densty'", "did you mean 'density'?")
        self.assertIn("recipe1.yaml:5:3: error:", result.err)
        fault = result.json["diagnostics"][0]
        self.assertEqual((fault["line"], fault["column"], fault["field"]), (5, 3, "parameters"))

    def test_wrong_type(self):
        result = self.check_text("WRONG_TYPE", 2,
                                 "method: ties\nbase: b\nmodels: [m]\nparameters: {density: high}\n",
                                 "'high'", "wanted a number")
        self.assertIn("recipe1.yaml:4:23: error: parameters.density", result.err)

    def test_out_of_range(self):
        self.check_text("OUT_OF_RANGE", 2, "method: ties\nbase: b\nmodels: [m]\nparameters: {density: -1}\n", "density")

    def test_yaml_syntax(self):
        result = self.check_text("RECIPE_SYNTAX", 2, "method: [ties\nbase: b\n")
        self.assertRegex(result.err, r"recipe1\.yaml:\d+:\d+: error:")

    def test_no_method(self):
        self.check_text("MISSING_KEY", 2, "base: b\nmodels: [m]\n", "method")

    def test_no_base(self):
        recipe = self.recipe("ties", self.inputs, base=None)
        self.check("BASE_MISSING", 2, recipe, "'ties'")

    def test_no_output(self):
        result = cli("run", self.recipe("ties", self.inputs), "-o", "json")
        self.refused(result, "MISSING_KEY", 2, "--out")

    def test_ties_of_no_models(self):
        self.check_text("TOO_FEW_MODELS", 2, f"method: ties\nbase: {self.inputs}/base\nmodels: []\n", "at least 1")

    def test_analogy_of_two(self):
        recipe = self.recipe("method: task_arithmetic\nparameters: {op: analogy}\n", self.inputs)
        self.check("TOO_FEW_MODELS", 2, recipe, "analogy", "3 models", "found 2")

    def test_several_recipe_faults_at_once(self):
        result = self.check_text("UNKNOWN_METHOD", 2,
                                 "method: tise\nbase: b\nmodels: [m]\nseed: abc\nwieght: 1\n",
                                 "'tise'", "'abc'", "'wieght'")
        self.assertEqual({item["reason"] for item in result.json["diagnostics"]},
                         {"UNKNOWN_METHOD", "WRONG_TYPE", "UNKNOWN_KEY"})

    # Usage.

    def test_unknown_option(self):
        self.check("USAGE", 2, self.recipe("ties", self.inputs), "'--thraeds'", "did you mean '--threads'?",
                   options=["--thraeds", "2"])

    def test_bad_size(self):
        self.check("USAGE", 2, self.recipe("ties", self.inputs), "--memory-budget", "lots",
                   options=["--memory-budget", "lots"])

    def test_budget_too_small(self):
        recipe = self.recipe("ties", self.inputs)
        result = self.check("BUDGET_TOO_SMALL", 2, recipe, "memory budget", options=["--memory-budget", "5MiB"])
        needed = re.search(r"at least .*\((\d+) bytes\)", result.message)
        self.assertIsNotNone(needed, result.message)
        self.run_ok(recipe, "--out", self.place.uri, "--memory-budget", needed.group(1))
        os.rename(self.place.path, self.place.path + "-small")
        self.run_ok(recipe, "--out", self.place.uri)
        self.assertEqual(bytes_of(self.place), bytes_of(self.local_place("out-small")))

    def test_budget_too_small_for_a_matrix(self):
        recipe = self.recipe("iso_c", self.world.family("large"))
        # The widest matrix, not the one with the most elements: singular values need its square.
        result = self.check("BUDGET_TOO_SMALL", 2, recipe, "layers.3.mlp.weight", "exclude",
                            options=["--memory-budget", "64MiB"])
        needed = re.search(r"at least .*\((\d+) bytes\)", result.message).group(1)
        accepted = cli("plan", recipe, "--memory-budget", needed, "-o", "json")
        self.assertEqual(accepted.code, 0, str(accepted))

    # Values.

    def test_not_finite(self):
        """Merged all the same: counted, named, and carried to its own element only."""
        def change(tensors):
            weights = tensors["blocks.0.weight"][1].copy()
            weights[3, 5], weights[7, 11] = np.nan, np.inf
            tensors["blocks.0.weight"] = ("F32", weights)
        folder = self.changed(change)
        for method in ("average", "awd", "ties", "awd_ties", "iso_c"):
            with self.subTest(method):
                place = self.local_place(method)
                result = self.run_ok(self.with_model(method, folder), "--out", place.uri)
                report = json.loads(place.read("report.json"))
                self.assertEqual(report["nonfinite"]["total"], 2, report["nonfinite"])
                self.assertEqual(report["nonfinite"]["tensors"][0]["tensor"], "blocks.0.weight")
                self.assertIn("NaN", result.err)
                self.assertIn("blocks.0.weight", result.err)
                for name, (dtype, array) in models.read_folder(place.path).items():
                    values = models.from_bf16(array) if dtype == "BF16" else array
                    bad = [tuple(index) for index in np.argwhere(~np.isfinite(values))] if dtype != "I64" else []
                    expected = [(3, 5), (7, 11)] if name == "blocks.0.weight" else []
                    self.assertEqual([tuple(int(i) for i in index) for index in bad], expected, name)

    # A file that changes while it is read.

    def test_input_changed(self):
        inputs = os.path.join(self.folder, "inputs")
        shutil.copytree(self.world.family("large"), inputs)
        recipe = self.recipe("awd_ties", inputs)
        process = None
        while process is None:
            shutil.rmtree(self.place.path, ignore_errors=True)
            process = self.stop_when(self.place.has_results, recipe, "--out", self.place.uri, "--threads", "1",
                                     "--chunk-size", "64KiB")
        path = os.path.join(inputs, "m2", "model-00001-of-00002.safetensors")
        with open(path, "r+b") as file:
            file.seek(-8, os.SEEK_END)
            file.write(b"\1\2\3\4\5\6\7\10")
        process.send_signal(signal.SIGCONT)
        result = finish(process)
        self.refused(result, "INPUT_CHANGED", 3, path)
        self.assertIsNone(commit_of(self.place))
        self.assert_nothing_at(self.place)
        self.run_ok(recipe, "--out", self.place.uri)
        self.assertEqual(self.place.debris(), [])
