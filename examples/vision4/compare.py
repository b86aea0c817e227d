#!/usr/bin/env python3
"""Every method on the four models of this folder, through the program: a Markdown table.

  compare.py [--only TEXT]         from the repository's root, after ./scripts/build; some minutes

Where a method has a factor (`lambda`, or as the table says), it is chosen by the accuracy on the validation pictures, the smallest of equals, out of
the values in SETTINGS. Then the test pictures are looked at, once. emr and tall_masks write a model per task, each measured on its task."""
import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import eval as suite

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parent.parent / "build/bin/orthomerge"
TASKS = ["mnist", "digits", "letters", "orient"]
SUM = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5]  # lambda of sums of task vectors
WIDE = [0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5]  # of means and of what is normalised otherwise
AWD = {"method": "awd", "parameters": {"scale": "relative"}}

# Method, what is set beside its defaults, the name of the factor and its values, transforms.
SETTINGS = [
    ("average", {}, None, [], []),
    ("task_arithmetic", {}, "lambda", SUM, []),
    ("awd", {}, "lambda", SUM, []),
    ("awd", {"scale": "relative"}, "lambda", SUM, []),
    ("awd", {"granularity": "tensor"}, "lambda", SUM, []),
    ("ties", {"merge": "sum"}, "lambda", WIDE, []),
    ("ties", {"merge": "sum"}, "lambda", WIDE, [AWD]),
    ("consensus", {"mask_lambda": 0.2}, "lambda", SUM, []),
    ("consensus", {"mtl": "ties"}, "lambda", WIDE, []),
    ("dare", {}, "lambda", SUM, []),
    ("breadcrumbs", {}, "lambda", WIDE, []),
    ("model_stock", {}, None, [], []),
    ("pcb", {}, "lambda", WIDE, []),
    ("tatr", {}, "lambda", SUM, []),
    ("iso_c", {}, "lambda", WIDE, []),
    ("iso_c", {}, "lambda", WIDE, [AWD]),
    ("iso_cts", {}, "lambda", WIDE, []),
    ("tsv_m", {}, "lambda", WIDE, []),
    ("tsv_m", {}, "lambda", WIDE, [AWD]),
    ("wudi", {}, None, [], []),
    ("wudi", {"rest": "mean"}, None, [], []),
    ("doge", {"include": ["layers.", "weight"]}, "eta", [0.03, 0.07, 0.15, 0.3, 0.6], []),
    ("knots", {}, "lambda", WIDE, []),
    ("emr", {}, None, [], []),
    ("tall_masks", {}, None, [], []),
    ("mergekit.breadcrumbs_ties", {"density": 0.9}, "lambda", SUM, []),
    ("mergekit.dare_ties", {"density": 0.5}, "lambda", SUM, []),
    ("mergekit.della", {"density": 0.5}, "lambda", WIDE, []),
    ("mergekit.karcher", {}, None, [], []),
    ("mergekit.multislerp", {}, None, [], []),
    ("mergekit.ram", {}, None, [], []),
    ("mergekit.ramplus_tl", {}, None, [], []),
    ("mergekit.sce", {}, None, [], []),
    ("mergekit.ties", {"density": 0.2}, "lambda", WIDE, []),
]
WITHOUT_BASE = {"average", "mergekit.karcher", "mergekit.multislerp"}
PER_TASK = {"emr", "tall_masks"}


def recipe(method, parameters, transform):
    models = [str(HERE / task) for task in TASKS]
    base = None if method in WITHOUT_BASE else str(HERE / "base")
    if method.startswith("mergekit."):
        result = {"merge_method": method.removeprefix("mergekit."), "parameters": parameters}
        needs_weight = method not in ("mergekit.karcher", "mergekit.ram", "mergekit.ramplus_tl", "mergekit.sce")
        result["models"] = [{"model": m, **({"parameters": {"weight": 1.0}} if needs_weight else {})} for m in models]
        return {**result, **({"base_model": base} if base else {})}
    result = {"method": method, "models": models, "parameters": parameters, "transform": transform}
    return {**result, **({"base": base} if base else {})}


class Suite:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.config = json.loads((HERE / "suite.json").read_text())
        self.data = suite.load(HERE / "data.safetensors")
        self.heads = suite.load(HERE / "heads.safetensors")
        self.merges = 0

    def merge(self, method, parameters, transform):
        self.merges += 1
        file, out = self.folder / f"{self.merges}.json", self.folder / str(self.merges)
        file.write_text(json.dumps(recipe(method, parameters, transform)))
        done = subprocess.run([PROGRAM, "run", file, "--out", out, "-o", "json"], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{method} {parameters}: {done.stderr}")
        weights = suite.load_model(out)
        return {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in weights.items()}

    def accuracies(self, method, parameters, transform, split):
        result = []
        for number, task in enumerate(TASKS):
            if method in PER_TASK:
                weights = self.merge(method, {**parameters, "task": number}, transform)
            elif number == 0:
                weights = self.merge(method, parameters, transform)
            images, labels = self.data[f"{task}.{split}.images"], self.data[f"{task}.{split}.labels"]
            head = self.heads[task].astype(np.float32)
            result.append(suite.accuracy(weights, images, labels, head, self.config["config"]["heads"]))
        return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="methods whose name contains this text")
    only = parser.parse_args().only
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| Method | Set | Factor | Validation | Test | " + " | ".join(TASKS) + " |")
    print("|---|---|---|---|---|" + "---|" * len(TASKS))
    with tempfile.TemporaryDirectory() as folder:
        run = Suite(folder)
        for method, parameters, name, values, transform in SETTINGS:
            if only not in method:
                continue
            best, best_score = None, -math.inf
            for value in values or [None]:
                given = parameters if value is None else {**parameters, name: value}
                score = sum(run.accuracies(method, given, transform, "val"))
                if score > best_score + 1e-9:
                    best, best_score, chosen = value, score, given
            test = run.accuracies(method, chosen, transform, "test")
            before = "awd (relative), then " if transform else ""
            named = method.replace("mergekit.", "mergekit's ")
            said = ", ".join(f"{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in parameters.items())
            factor = "" if best is None else f"{name} {best}"
            cells = [f"{before}{named}", said, factor, f"{25 * best_score:.1f}", f"**{25 * sum(test):.1f}**"]
            print("| " + " | ".join(cells + [f"{100 * x:.1f}" for x in test]) + " |", flush=True)


if __name__ == "__main__":
    main()
