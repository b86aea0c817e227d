"""mergekit's `run_merge`, carried out by `orthomerge run`, and then compared with what mergekit makes of it."""

import json
import logging
import os
import re
import subprocess
import sys
import tempfile

import mergekit.merge
import numpy as np
import torch
import yaml
from mergekit.architecture.conversion import convert_checkpoint_tensors
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
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
    """Where both refuse, what mergekit raises: tests look for its words."""
    refusal = None
    try:
        _orthomerge(merge_config, str(out_path), options)
    except _Refused as error:
        refusal = error
    with tempfile.TemporaryDirectory() as reference:
        try:
            # Its model card looks names up on the hub.
            offline = options.model_copy(update={"write_model_card": False})
            _quietly(_mergekit_run_merge, merge_config, reference, offline, config_source)
        except Exception as error:
            if refusal is None:
                raise Difference(f"merged, while mergekit refuses: {error}") from error
            raise error from refusal
        if refusal is not None:
            raise Difference(f"refused, while mergekit merges: {refusal}")
        _compare(merge_config, str(out_path), reference)


def _orthomerge(config, out_path, options):
    changed = {name: value for name, value in options if value != getattr(type(options)(), name)}
    lacking = changed.keys() - _IGNORED_OPTIONS - {"random_seed", "out_shard_size"}
    if lacking:
        raise Difference(f"orthomerge has no option {', '.join(sorted(lacking))}")
    recipe = yaml.safe_load(config.to_yaml())
    if "out_shard_size" in changed:
        recipe["output"] = {"max_shard_size": options.out_shard_size}
    command = [os.environ["ORTHOMERGE"], "run", "-", "--out", out_path, "--quiet", "-o", "json"]
    if options.random_seed is not None:
        command += ["--seed", str(options.random_seed)]
    result = subprocess.run(command, input=yaml.safe_dump(recipe), capture_output=True, text=True, timeout=300)
    if result.returncode == 0:
        return
    error = json.loads(result.stdout.splitlines()[-1])["error"]
    if error["reason"] in ("UNSUPPORTED", "INTERNAL"):
        raise Difference(f"{error['reason']}: {error['message']}")
    raise _Refused(f"{error['reason']}: {error['message']}")


def _quietly(function, *arguments):
    """A test that reads the log is to find nothing in it that mergekit said."""
    logging.disable(logging.CRITICAL)
    try:
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


# In units of the last place (`compare.py`). mergekit rounds after every operation. Task vectors in 16 bits take few distinct
# values, and which of those at a threshold stay is a matter of order there.
_USUAL = {"units": 4, "share": 0.97, "hard": 32, "slack": 4}
_SELECTING = {"units": 4, "share": 0.8, "hard": None, "slack": 4}
_LIMITS = {name: _SELECTING for name in ("ties", "breadcrumbs", "breadcrumbs_ties", "sce", "arcee_fusion")}
# Their lengths and angles are in 16 bits there.
_LIMITS.update({name: {"units": 32, "share": 0.97, "hard": 128, "slack": 4} for name in ("multislerp", "nuslerp")})
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
