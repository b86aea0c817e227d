"""Adapters as output: what PEFT computes from them is the merged model."""

import json
import os

import models
import numpy as np
from support import TestCase, cli


def numbers(tensor):
    dtype, array = tensor
    return (models.from_bf16(array) if dtype == "BF16" else array).astype(np.float64)


def applied(base, folder):
    """The base's tensors with an adapter, as PEFT's loader reads names and scales."""
    with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    adapter = models.read_file(os.path.join(folder, "adapter_model.safetensors"))
    tensors = {name: numbers(tensor) for name, tensor in base.items() if tensor[0] != "I64"}
    for name in adapter:
        module = name.removeprefix("base_model.model.")
        if module.endswith(".lora_A.weight"):
            module = module.removesuffix(".lora_A.weight")
            a, b = numbers(adapter[name]), numbers(adapter[name.replace("lora_A", "lora_B")])
            rank = config["rank_pattern"].get(module, config["r"])
            assert module in config["target_modules"] and a.shape[0] == rank, name
            tensors[module + ".weight"] += config["alpha_pattern"].get(module, config["lora_alpha"]) / rank * (b @ a)
        elif ".lora_" not in name:
            tensors[module.replace(".base_layer.", ".")] = numbers(adapter[name])
    return tensors


class Adapters(TestCase):
    def setUp(self):
        super().setUp()
        self.inputs = self.world.family("small")
        self.base = models.read_folder(os.path.join(self.inputs, "base"))

    def check(self, recipe, rank, tolerance):
        out, full = self.local_place("adapter"), self.local_place("full")
        result = self.run_ok(self.write(recipe + f"output: {{dtype: float32, adapter: {{rank: {rank}}}}}\n"),
                             "--out", out.uri)
        self.assertEqual(out.names(), ["adapter/adapter_config.json", "adapter/adapter_model.safetensors",
                                       "orthomerge.json", "report.json"])
        self.run_ok(self.write(recipe + "output: {dtype: float32}\n"), "--out", full.uri)
        got, want = applied(self.base, os.path.join(out.path, "adapter")), models.read_folder(full.path)
        for name in got:
            self.assertLess(np.abs(got[name] - numbers(want[name])).max(), tolerance, name)
        return out, result

    def write_adapter(self, name, rank, seed, settings):
        rng = np.random.Generator(np.random.PCG64(seed))
        tensors = {}
        for module, out, columns in (("blocks.0", 131, 67), ("blocks.1", 67, 201)):
            for factor, shape in (("A", (rank, columns)), ("B", (out, rank))):
                values = (rng.standard_normal(shape) * 0.1).astype("<f4")
                tensors[f"base_model.model.{module}.lora_{factor}.weight"] = ("F32", values)
        folder = os.path.join(self.folder, name)
        os.makedirs(folder)
        models.write_file(os.path.join(folder, "adapter_model.safetensors"), tensors)
        with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as file:
            json.dump({"peft_type": "LORA", "r": rank, **settings}, file)
        return folder

    def test_adapters_together(self):
        first = self.write_adapter("first", 3, 5, {"lora_alpha": 6})
        second = self.write_adapter("second", 5, 6, {"lora_alpha": 4, "use_rslora": True})
        recipe = (f"method: task_arithmetic\nbase: {self.inputs}/base\nparameters: {{lambda: 0.6}}\n"
                  f"models: [{first}, {{uri: {second}, weight: -2}}]\n")
        out, _ = self.check(recipe, "exact", 1e-5)
        # As a model of another recipe, and without the base.
        again = self.local_place("again")
        text = f"method: average\nmodels: [{out.path}/adapter]\noutput: {{adapter: {{rank: exact}}}}\n"
        self.run_ok(self.write(text), "--out", again.uri)
        name = "adapter/adapter_model.safetensors"
        self.assertEqual(again.read(name), out.read(name))

    def test_full_models(self):
        recipe = (f"method: ties\nbase: {self.inputs}/base\nmodels: [{self.inputs}/m1, {self.inputs}/m2]\n")
        _, result = self.check(recipe, 97, 1e-5)
        self.assertLess(result.json["report"]["adapter"]["relative_error"], 1e-5)

    def test_on_s3(self):
        recipe = self.write(f"method: ties\nbase: {self.inputs}/base\nmodels: [{self.inputs}/m1, {self.inputs}/m2]\n"
                            "output: {adapter: {rank: 3}}\n")
        here, there = self.local_place(), self.s3_place()
        for place in (here, there):
            self.assertFalse(self.run_ok(recipe, "--out", place.uri).json["already_complete"])
            self.assertTrue(self.run_ok(recipe, "--out", place.uri).json["already_complete"])
            self.assertEqual(cli("clean", place.uri, "-o", "json").json["removed"], [])
            self.assertEqual(place.debris(), [])
            other = self.recipe("average", self.inputs)
            self.refused(cli("run", other, "--out", place.uri, "-o", "json"), "OUTPUT_EXISTS", 3, place.uri)
        for name in ("adapter/adapter_config.json", "adapter/adapter_model.safetensors"):
            self.assertEqual(there.read(name), here.read(name))

    def test_refused(self):
        recipe = self.write(f"method: average\nbase: {self.inputs}/base\nmodels: [{self.inputs}/m1]\n"
                            "output: {adapter: {rank: exact}}\n")
        result = cli("run", recipe, "--out", self.local_place().uri, "-o", "json")
        self.refused(result, "UNSUPPORTED", 2, "m1", "give the rank of an approximation")
