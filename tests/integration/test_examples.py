"""The recipes of `examples/mergekit`, unchanged, on small models of the families they name, against NumPy."""

import json
import os
import re
import subprocess
import sys

import models
import numpy as np
import support
from support import TestCase

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples", "mergekit")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "conformance"))
import compare  # noqa: E402


def numbers(tensor):
    dtype, values = tensor
    return (models.from_bf16(values) if dtype == "BF16" else values).astype(np.float64)


def gradient(values, depth):
    return float(np.interp(depth * (len(values) - 1), np.arange(len(values)), values))


def layer_of(name):
    found = re.search(r"(?:layers|blocks)\.(\d+)\.", name)
    return int(found[1]) if found else None


def depth_of(name, layers):
    """0 for the first layer and for all that is no layer, 1 for the last."""
    return 0.0 if layer_of(name) is None else layer_of(name) / (layers - 1)


def cosine(a, b):
    return float(np.clip(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))


def slerp(a, b, t, threshold=0.9995):
    c = cosine(a, b)
    if abs(c) > threshold:
        return (1 - t) * a + t * b
    angle = np.arccos(c)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def kept(change, entries):
    mask = np.zeros(change.size)
    mask[entries] = 1
    return change * mask.reshape(change.shape)


def largest(change, count):
    """Of equal ones the first."""
    return kept(change, np.argsort(-np.abs(change), axis=None, kind="stable")[:count])


def middle(change, count, top):
    """Without the `top` largest, as far as `count` allows."""
    first = max(0, change.size - count - top)
    return kept(change, np.argsort(np.abs(change), axis=None, kind="stable")[first:first + count])


def elected(changes, weights):
    """Weighted mean over the models that agree with the sign of the weighted sum."""
    weighted = [w * change for w, change in zip(weights, changes)]
    sign = np.where(sum(weighted) >= 0, 1, -1)
    agreeing = [np.sign(term) == sign for term in weighted]
    total = sum(w * a for w, a in zip(weights, agreeing))
    return sum(term * a for term, a in zip(weighted, agreeing)) / np.where(total == 0, 1, total)


class Examples(TestCase):
    def setUp(self):
        super().setUp()
        self.models = os.path.join(self.world.folder, "example-models")
        if not os.path.exists(self.models):
            subprocess.run([sys.executable, os.path.join(EXAMPLES, "make_models.py"), self.models], check=True)

    def model(self, name):
        return {tensor: numbers(value) for tensor, value in models.read_folder(os.path.join(self.models, name)).items()}

    def family(self, *names):
        """The models' tensors side by side: name -> [array of each model]."""
        found = [self.model(name) for name in names]
        return {tensor: [model[tensor] for model in found] for tensor in found[0]}

    def merge(self, recipe):
        place = self.local_place(recipe)
        self.run_ok(os.path.join(EXAMPLES, recipe + ".yml"), "--out", place.uri, cwd=self.models)
        return place

    def check(self, recipe, inputs, expected, share=0.999):
        """`expected`: of a tensor's name and the inputs' values. One step in the last place, for `share` of them."""
        merged = models.read_folder(self.merge(recipe).path)
        self.assertEqual(merged.keys(), inputs.keys())
        limits = {"units": 1, "share": share, "hard": 2 if share > 0.99 else None, "slack": 1}
        faults = []
        for name, got in merged.items():
            want = np.asarray(expected(name, inputs[name]), dtype="<f4")
            want = models.to_bf16(want) if got[0] == "BF16" else want.astype("<f2")
            faults.append(compare.check_values(name, (got[0], want), got, limits))
        self.assertEqual([fault for fault in faults if fault], [])

    def test_all_are_here(self):
        recipes = {name.removesuffix(".yml") for name in os.listdir(EXAMPLES) if name.endswith(".yml")}
        tested = {name.removeprefix("test_").replace("_", "-") for name in dir(self) if name.startswith("test_")}
        self.assertEqual(tested - recipes, {"all-are-here"})
        self.assertEqual(recipes - tested, set())

    def test_slerp_gradient(self):
        def expected(name, values):
            depth = depth_of(name, 32)
            t = 0.5
            if "self_attn" in name:
                t = depth
            elif "mlp" in name:
                t = 1 - depth
            return slerp(*values, t)

        self.check("slerp-gradient", self.family("mistral-7b-instruct", "mistral-7b-storyteller"), expected)

    def test_linear_filters(self):
        def expected(name, values):
            depth = depth_of(name, 32)
            weights = [0.4, 0.4, gradient([0.1, 0.3], depth)]
            if "qkv_proj" in name:
                weights[0] = gradient([1, 0.6, 0.2], depth)
            elif "gate_up_proj" in name:
                weights[0] = 0.5
            elif "embed_tokens" in name:
                weights = [1, 0, 0]
            return np.average(values, axis=0, weights=weights)

        self.check("linear-filters", self.family("phi-3-mini-instruct", "phi-3-mini-sql", "phi-3-mini-legal"), expected)

    def test_task_arithmetic_negative(self):
        def expected(_, values):
            base, *others = values
            return base + 0.9 * sum(w * (x - base) for w, x in zip([1.0, 0.7, -0.5], others))

        self.check("task-arithmetic-negative",
                   self.family(*(f"qwen2.5-1.5b-{name}" for name in ("base", "instruct", "german", "toxic"))), expected)

    def test_model_stock(self):
        def expected(_, values):
            base, *others = values
            changes = [x - base for x in others]
            # Of a model that learned nothing here the change is 0, and so is its cosine.
            cosines = [np.vdot(a, b) / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-6)
                       for i, a in enumerate(changes) for b in changes[i + 1:]]
            mean = np.mean(np.clip(cosines, -1, 1))
            t = 4 * mean / (1 + 3 * mean)
            return t * np.mean(others, axis=0) + (1 - t) * base

        self.check("model-stock", self.family(*(f"llama-3-8b-{name}" for name in
                                                ("base", "instruct", "code", "medical", "finance"))), expected)

    def test_nuslerp(self):
        def expected(name, values):
            base, a, b = values
            first = gradient([0.8, 0.8, 0.4], depth_of(name, 48)) if "mlp" in name else 0.7
            t = 0.3 / (first + 0.3)
            rows = [(a - base).reshape(-1, base.shape[-1]), (b - base).reshape(-1, base.shape[-1])]
            # A row that one of them has not moved is halfway along no arc: its angle counts as a right one.
            turned = [slerp(x, y, t, 1 - 1e-16) if x.any() and y.any()
                      else np.sin((1 - t) * np.pi / 2) * x + np.sin(t * np.pi / 2) * y for x, y in zip(*rows)]
            return base + np.reshape(turned, base.shape)

        self.check("nuslerp", self.family("qwen2.5-14b-base", "qwen2.5-14b-reasoning", "qwen2.5-14b-writer"), expected)

    def test_two_stages(self):
        def expected(_, values):
            instruct, storyteller, math = values
            mean = (0.7 * storyteller + 0.3 * math).astype("<f4")
            return slerp(instruct, models.from_bf16(models.to_bf16(mean)).astype(np.float64), 0.4)

        self.check("two-stages", self.family("mistral-7b-instruct", "mistral-7b-storyteller", "mistral-7b-math"), expected)

    def test_chat_tokens(self):
        chat, teller = self.model("mistral-7b-chatml"), self.model("mistral-7b-storyteller")
        inputs = {}
        for name, values in chat.items():
            other = teller[name]
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                self.assertEqual((len(values), len(other)), (98, 96))
                values[97] = values[2]  # </s>
                other = np.concatenate([other, values[96:]])
            inputs[name] = [values, other]
        self.check("chat-tokens", inputs, lambda _, values: np.average(values, axis=0, weights=[0.6, 0.4]))
        place = self.local_place("chat-tokens")
        self.assertEqual(json.loads(place.read("config.json"))["vocab_size"], 98)
        tokens = {token["content"]: token["id"] for token in json.loads(place.read("tokenizer.json"))["added_tokens"]}
        self.assertEqual(tokens, {"<|im_start|>": 96, "<|im_end|>": 97})
        self.assertIn("<|im_start|>", json.loads(place.read("tokenizer_config.json"))["chat_template"])

    def test_multislerp(self):
        def expected(_, values):
            base, *others = values
            weights = [0.5, 0.3, 0.2]
            changes = [x - base for x in others]
            lengths = [np.linalg.norm(change) for change in changes]
            units = [change / (length + 1e-8) for change, length in zip(changes, lengths)]
            mean = sum(w * unit for w, unit in zip(weights, units))
            mean /= np.linalg.norm(mean)
            tangent = sum(w * (unit - np.vdot(unit, mean) * mean) for w, unit in zip(weights, units))
            length = np.linalg.norm(tangent) + 1e-8
            merged = np.cos(length) * mean + np.sin(length) * tangent / length
            return base + np.dot(weights, lengths) * merged

        self.check("multislerp", self.family(*(f"mistral-7b-{name}" for name in
                                               ("base", "instruct", "storyteller", "math"))), expected)

    def test_karcher_moe(self):
        inputs = self.family("mixtral-8x7b-instruct", "mixtral-8x7b-chat", "mixtral-8x7b-code")
        self.assertEqual(sum(".experts." in name for name in inputs), 32 * 8 * 3)

        def expected(_, values):
            """The mean direction is where the logarithms of all directions cancel."""
            lengths = [np.linalg.norm(x) for x in values]
            units = [x / length for x, length in zip(values, lengths)]
            mean = sum(units) / np.linalg.norm(sum(units))
            for _ in range(100):
                step = np.zeros_like(mean)
                for unit in units:
                    angle = np.arccos(cosine(mean, unit))
                    if angle > 1e-12:
                        step += angle / np.sin(angle) * (unit - np.cos(angle) * mean) / 3
                length = np.linalg.norm(step)
                if length < 1e-12:
                    break
                mean = np.cos(length) * mean + np.sin(length) * step / length
            return np.mean(lengths) * mean

        self.check("karcher-moe", inputs, expected)

    def test_passthrough_frankenmerge(self):
        first, second = (models.read_folder(os.path.join(self.models, f"llama-2-13b-{name}"))
                         for name in ("novelist", "roleplay"))
        place = self.merge("passthrough-frankenmerge")
        merged = models.read_folder(place.path)
        self.assertIn(b'"num_hidden_layers": 72', place.read("config.json"))
        slices = [(first, 0, 16), (second, 8, 24), (first, 16, 32), (second, 24, 40), (first, 32, 40)]
        sources = [(model, layer) for model, begin, end in slices for layer in range(begin, end)]
        outside = [name for name in first if layer_of(name) is None]
        self.assertEqual(len(merged), len(outside) + 72 * 9)
        for name, got in merged.items():
            layer = layer_of(name)
            model, source = (first, name) if layer is None else (sources[layer][0], name.replace(
                f".{layer}.", f".{sources[layer][1]}.", 1))
            self.assertEqual(got[0], "F16")
            np.testing.assert_array_equal(got[1], model[source][1], name)

    def test_vlm_modules(self):
        def expected(name, values):
            base, documents, charts = values
            if ".merger." in name:
                return (documents + charts) / 2
            if name.startswith("visual."):
                return 0.8 * base + 0.2 * charts
            return np.average([documents, charts], axis=0, weights=[0.6, gradient([0.2, 0.6], depth_of(name, 28))])

        self.check("vlm-modules", self.family("qwen2-vl-7b-base", "qwen2-vl-7b-documents", "qwen2-vl-7b-charts"),
                   expected)

    def test_ties_trim(self):
        def expected(name, values):
            base, *others = (np.asarray(x, dtype="<f2").astype(np.float64) for x in values)
            densities = [gradient([0.8, 0.6, 0.25], depth_of(name, 32)), 0.4]
            changes = [largest(x - base, int(density * base.size)) for x, density in zip(others, densities)]
            return base + elected(changes, [1.0, 0.6 if "mlp" in name else 0])

        self.check("ties-trim", self.family("phi-3-mini-base", "phi-3-mini-sql", "phi-3-mini-legal"), expected)

    def test_breadcrumbs_ties(self):
        def expected(_, values):
            base, *others = values
            changes = [middle(x - base, int(density * base.size), int(gamma * base.size))
                       for x, density, gamma in zip(others, [0.9, 0.85, 0.6], [0.01, 0.02, 0.015])]
            return base + elected(changes, [0.6, 0.4, 0.2])

        self.check("breadcrumbs-ties", self.family(*(f"gemma-2-2b-{name}" for name in
                                                     ("base", "it", "japanese", "tools"))), expected)

    # Drawn at random: what must hold for any draw.

    def moved(self, recipe, inputs):
        """(name, base, the models' changes, what the merged model changes), and that the seed decides."""
        place, again = self.merge(recipe), self.local_place(recipe + "-again")
        self.run_ok(os.path.join(EXAMPLES, recipe + ".yml"), "--out", again.uri, "--threads", "1", cwd=self.models)
        self.assertEqual(support.bytes_of(place), support.bytes_of(again))
        merged = models.read_folder(place.path)
        self.assertEqual(merged.keys(), inputs.keys())
        for name, (base, *others) in inputs.items():
            yield name, base, [x - base for x in others], numbers(merged[name]) - base

    def test_dare_ties(self):
        """Large matrices together: an entry is left alone where every model's was dropped."""
        inputs = self.family(*(f"mistral-7b-{name}" for name in ("base", "instruct", "storyteller", "math")))
        alone = total = 0
        for name, base, changes, moved in self.moved("dare-ties", inputs):
            weights = [0.4, 0.3, 0.5 if "mlp" in name else 0.2]
            # Each change grows by what the dropped ones took with them: 1 / density, about, in tensors of this size.
            bound = sum(w * np.abs(change) for w, change in zip(weights, changes)) / 0.4 * 1.6
            steps = compare.spacing(np.maximum(np.abs(base), 1e-3), "BF16")
            self.assertTrue(np.all(np.abs(moved) <= bound + steps), name)
            if base.ndim == 2 and layer_of(name) == 0:
                sure = np.min(np.abs(changes), axis=0) > 8 * steps
                alone += int(np.sum(moved[sure] == 0))
                total += int(np.sum(sure))
        share = 0.4 * 0.5 * 0.3  # dropped by all three; at depth 0 the third keeps 0.7
        self.assertGreater(total, 1000)
        self.assertLess(abs(alone / total - share), 5 * (share * (1 - share) / total) ** 0.5 + 0.005)

    def test_della(self):
        """A weighted mean of changes that agree is no larger than the largest of them."""
        inputs = self.family(*(f"llama-3-8b-{name}" for name in ("base", "instruct", "code", "medical")))
        alone = total = 0
        for name, base, changes, moved in self.moved("della", inputs):
            bound = 1.1 * np.max(np.abs(changes), axis=0) / 0.5 * 1.6
            steps = compare.spacing(np.maximum(np.abs(base), 1e-3), "BF16")
            self.assertTrue(np.all(np.abs(moved) <= bound + steps), name)
            if base.ndim == 2 and "mlp" in name:  # where `code` was not trained
                sure = np.min(np.abs([changes[0], changes[2]]), axis=0) > 8 * steps
                alone += int(np.sum(moved[sure] == 0))
                total += int(np.sum(sure))
        # Large changes stay more often than 0.7 and 0.5, so fewer are left alone than if the size did not matter.
        self.assertGreater(total, 1000)
        self.assertLess(alone / total, 0.3 * 0.5)
        self.assertGreater(alone / total, 0.1 * 0.35)
