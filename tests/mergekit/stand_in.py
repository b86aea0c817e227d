"""mergekit's `run_merge`, carried out by `orthomerge run`, and then compared with what mergekit makes of it."""

import functools
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from unittest import mock

import mergekit.merge
import numpy as np
import torch
import yaml
from mergekit.architecture.conversion import convert_checkpoint_tensors
from mergekit.config import MergeConfiguration
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
from mergekit.scripts import multimerge  # calls mergekit's own `run_merge`, since `install` comes later
from tokenizers import Tokenizer

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "conformance"))
import compare  # noqa: E402

_mergekit_run_merge = mergekit.merge.run_merge
# How much either says, and where mergekit computes, is not what a test is about.
_IGNORED_OPTIONS = {"quiet", "verbosity", "device", "num_threads", "allow_crimes", "write_model_card", "lazy_unpickle"}


class Difference(Exception):
    """The two programs disagree; no test expects this one."""


class _Refused(Exception):
    pass


def install():
    """Before any test is imported, since tests take `run_merge` by name."""
    mergekit.merge.run_merge = run_merge


def run_merge(merge_config, out_path, options, config_source=None):
    # Its model card looks names up on the hub.
    offline = options.model_copy(update={"write_model_card": False})
    _both(merge_config, str(out_path), _recipe(merge_config, options), options.random_seed,
          lambda folder: _mergekit_run_merge(merge_config, folder, offline, config_source))


def run_recipe(path, out_path):
    """A file as it is, with one document or several, by mergekit's program for those (`mergekit-multi`)."""
    with open(path, encoding="utf-8") as file:
        recipe = file.read()
    final = next(document for document in yaml.safe_load_all(recipe) if "name" not in document)

    def reference(folder):
        with tempfile.TemporaryDirectory() as stages:
            multimerge.main([path, "--out-path", folder, "--intermediate-dir", stages, "--no-write-model-card"],
                            standalone_mode=False)
    _both(MergeConfiguration.model_validate(final), str(out_path), recipe, None, reference)


def _both(config, out_path, recipe, seed, reference):
    """`config` is that of the merged model. Where both refuse, what mergekit raises: tests look for its words."""
    refusal = None
    try:
        _orthomerge(recipe, out_path, seed)
    except _Refused as error:
        refusal = error
    with tempfile.TemporaryDirectory() as folder:
        try:
            _undisturbed(reference, folder)
        except Exception as error:
            if refusal is None:
                raise Difference(f"merged, while mergekit refuses: {error}") from error
            raise error from refusal
        if refusal is not None:
            raise Difference(f"refused, while mergekit merges: {refusal}")
        _compare(config, out_path, folder)


def _recipe(config, options):
    changed = {name: value for name, value in options if value != getattr(type(options)(), name)}
    lacking = changed.keys() - _IGNORED_OPTIONS - {"random_seed", "out_shard_size"}
    if lacking:
        raise Difference(f"orthomerge has no option {', '.join(sorted(lacking))}")
    recipe = yaml.safe_load(config.to_yaml())
    if "out_shard_size" in changed:
        recipe["output"] = {"max_shard_size": options.out_shard_size}
    return yaml.safe_dump(recipe)


def _orthomerge(recipe, out_path, seed):
    command = [os.environ["ORTHOMERGE"], "run", "-", "--out", out_path, "--quiet", "-o", "json"]
    if seed is not None:
        command += ["--seed", str(seed)]
    result = subprocess.run(command, input=recipe, capture_output=True, text=True, timeout=300)
    if result.returncode == 0:
        return
    error = json.loads(result.stdout.splitlines()[-1])["error"]
    if error["reason"] in ("UNSUPPORTED", "INTERNAL"):
        raise Difference(f"{error['reason']}: {error['message']}")
    raise _Refused(f"{error['reason']}: {error['message']}")


# mergekit's sorts leave the order of equal numbers open, and with it which of the equal magnitudes at a threshold stay. The
# order of a stable sort is one of those that may come out, and it is ours.
_STABLE = {name: functools.partial(getattr(torch, name), stable=True) for name in ("sort", "argsort")}


def _undisturbed(function, *arguments):
    """A test that reads the log is to find nothing in it that mergekit said."""
    logging.disable(logging.CRITICAL)
    try:
        with mock.patch.multiple(torch, **_STABLE):
            return function(*arguments)
    finally:
        logging.disable(logging.NOTSET)


def _renamed(folder, names):
    """mergekit gives tensors the names and grouping that Transformers has for them now, and leaves out what it cannot
    name; ours keep the inputs'. Null if one is missing."""
    loader = LazyTensorLoader.from_disk(folder, lazy_unpickle=False)
    stored = {name: loader.get_tensor(name) for name in loader.index.tensor_paths}
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        model_type = json.load(file)["model_type"]
    found = {name: convert_checkpoint_tensors(model_type, stored, name) for name in names}
    if any(tensor is None for tensor in found.values()):
        return None
    return {name: _as_numpy(tensor) for name, tensor in found.items()}


def _as_numpy(tensor):
    if tensor.dtype == torch.bfloat16:
        return "BF16", tensor.contiguous().view(torch.int16).numpy().view("<u2")
    return {torch.float32: "F32", torch.float16: "F16"}.get(tensor.dtype, str(tensor.dtype)), tensor.numpy()


# In units of the last place (`compare.py`). mergekit rounds after every operation.
_USUAL = {"units": 4, "share": 0.97, "hard": 32, "slack": 4}
# Rounding may move a number across the threshold.
_LIMITS = {name: {**_USUAL, "hard": None} for name in ("ties", "breadcrumbs", "breadcrumbs_ties", "sce")}
# What it calls important is a sum of logarithms of ratios near 1, and so little more than rounding in 16 bits.
_LIMITS["arcee_fusion"] = {**_USUAL, "share": 0.8, "hard": None}
# Their lengths and angles are in 16 bits there.
_LIMITS.update({name: {**_USUAL, "units": 32, "hard": 128} for name in ("multislerp", "nuslerp")})
# These come out in 32 bits whatever goes in; ours in the dtype asked for.
_WIDENING = ("arcee_fusion", "ramplus_tl")
_VOCABULARY = re.compile(r"(embed_tokens|wte|lm_head)\.(weight|bias)$")
_TORCH = {"BF16": torch.bfloat16, "F16": torch.float16}
# Drawn from another generator: names, shapes and dtypes only.
_RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")


def _limits(config, dtype):
    limits = dict(_LIMITS.get(config.merge_method, _USUAL))
    working = {"bfloat16": "BF16", "float16": "F16"}.get(config.dtype)
    if working and dtype == "F32":  # rounded to `dtype` there on the way to `out_dtype`
        scale = 2 ** (compare.MANT[dtype] - compare.MANT[working])
        limits.update(units=limits["units"] * scale, hard=limits["hard"] and limits["hard"] * scale)
    return limits


def _by_their_ids(ours, reference, tensors):
    """New tokens of a union have ids in the order of a hash table there. Rows of embeddings and heads in that order, where
    the tokens are the same and only their ids differ."""
    files = [os.path.join(folder, "tokenizer.json") for folder in (ours, reference)]
    if not all(os.path.exists(file) for file in files):
        return tensors
    own, wanted = (Tokenizer.from_file(file).get_vocab() for file in files)
    if own.keys() != wanted.keys() or sorted(own.values()) != sorted(wanted.values()) or own == wanted:
        return tensors
    order = np.arange(max(wanted.values()) + 1)
    for token, place in wanted.items():
        order[place] = own[token]
    return {name: (dtype, np.concatenate([values[order], values[len(order):]]) if _VOCABULARY.search(name) else values)
            for name, (dtype, values) in tensors.items()}


def _compare(config, ours, reference):
    got, want = compare.read_model(ours), compare.read_model(reference)
    got = _by_their_ids(ours, reference, got)
    if not want.keys() <= got.keys():
        got = _renamed(ours, want) or got
    faults = [f"{name}: missing" for name in sorted(want.keys() - got.keys())]
    faults += [f"{name}: unexpected" for name in sorted(got.keys() - want.keys())]
    for name in sorted(want.keys() & got.keys()):
        (dtype, values), (wanted_dtype, wanted) = got[name], want[name]
        if config.merge_method in _WIDENING and wanted_dtype == "F32" and dtype in _TORCH:
            want[name] = wanted_dtype, wanted = _as_numpy(torch.tensor(wanted).to(_TORCH[dtype]))
        if (dtype, values.shape) != (wanted_dtype, wanted.shape):
            faults.append(f"{name}: {dtype} {values.shape}, mergekit's is {wanted_dtype} {wanted.shape}")
        elif config.merge_method not in _RANDOM:
            faults.append(compare.check_values(name, want[name], got[name], _limits(config, dtype)))
    faults = [fault for fault in faults if fault]
    if faults:
        raise Difference("; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else ""))
