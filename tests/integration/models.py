"""Small safetensors files: written, read and made up, the same ones on every machine."""

import json
import os
import struct

import numpy as np

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "BOOL": "?"}


def to_bf16(values):
    """The bits of float32 values, rounded to nearest even."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def from_bf16(bits):
    return (bits.astype("<u4") << 16).view("<f4")


def write_file(path, tensors):
    """`tensors`: name -> (dtype, array); bf16 arrays hold bits."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for dtype, array in tensors.values():
            file.write(np.ascontiguousarray(array, dtype=_DTYPES[dtype]).tobytes())


def read_header(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def read_file(path):
    """name -> (dtype, array), after a check that the data section is exactly as long as the header says."""
    header, start = read_header(path)
    header.pop("__metadata__", None)
    with open(path, "rb") as file:
        data = file.read()[start:]
    tensors, end = {}, 0
    for name, entry in header.items():
        begin, stop = entry["data_offsets"]
        end = max(end, stop)
        array = np.frombuffer(data[begin:stop], dtype=_DTYPES[entry["dtype"]])
        tensors[name] = (entry["dtype"], array.reshape(entry["shape"]))
    if end != len(data):
        raise ValueError(f"{path}: {len(data)} bytes of data, the header says {end}")
    return tensors


def read_folder(folder):
    """All tensors of a folder, through its index where it has one."""
    index = os.path.join(folder, "model.safetensors.index.json")
    if not os.path.exists(index):
        return read_file(os.path.join(folder, "model.safetensors"))
    with open(index, encoding="utf-8") as file:
        weight_map = json.load(file)["weight_map"]
    shards = {name: read_file(os.path.join(folder, name)) for name in set(weight_map.values())}
    return {tensor: shards[name][tensor] for tensor, name in weight_map.items()}


def write_folder(folder, tensors, shards=1, config=None):
    os.makedirs(folder)
    if config is not None:
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file, indent=2)
    if shards == 1:
        write_file(os.path.join(folder, "model.safetensors"), tensors)
        return
    names, weight_map = list(tensors), {}
    for i in range(shards):
        shard = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        write_file(os.path.join(folder, shard), part)
        weight_map.update((name, shard) for name in part)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
        json.dump({"metadata": {"total_size": sum(a.nbytes for _, a in tensors.values())},
                   "weight_map": weight_map}, file)


CONFIG = {"model_type": "synthetic", "torch_dtype": "bfloat16", "hidden_size": 768}

# Odd sizes on purpose: no dimension is a multiple of a lane, a page, a leaf or a part.
LARGE = [
    ("embed.weight", "BF16", (4099, 1031)),  # 4.2 million elements: several leaves, and a cut inside
    ("layers.0.attention.weight", "F32", (1031, 771)),
    ("layers.0.norm.weight", "F32", (1031,)),
    ("layers.1.mlp.weight", "BF16", (2053, 1025)),
    ("layers.1.norm.weight", "BF16", (17,)),
    ("layers.2.attention.weight", "F32", (1031, 1543)),
    ("layers.2.mlp.weight", "BF16", (2053, 1531)),
    ("layers.3.attention.weight", "F32", (771, 1543)),
    ("layers.3.mlp.weight", "BF16", (1789, 2053)),
    ("positions", "I64", (513,)),
    ("scale", "F32", ()),
    ("unused", "F32", (0, 3)),
    ("head.weight", "BF16", (1031, 2053)),
]
SMALL = [
    ("blocks.0.weight", "F32", (131, 67)),
    ("blocks.0.bias", "F32", (131,)),
    ("blocks.1.weight", "BF16", (67, 201)),
    ("blocks.1.bias", "BF16", (67,)),
    ("blocks.2.weight", "F32", (97, 97)),
    ("long.bias", "BF16", ((1 << 20) + 77,)),
    ("steps", "I64", (3,)),
]


def synthetic(shape_list, seed, base=None):
    """A base model, or with `base` a model fine-tuned from it: each tensor moves by a fifth of its spread."""
    rng = np.random.Generator(np.random.PCG64(seed))
    tensors = {}
    for name, dtype, shape in shape_list:
        if dtype == "I64":
            tensors[name] = (dtype, np.arange(int(np.prod(shape)), dtype="<i8").reshape(shape))
            continue
        values = rng.standard_normal(shape, dtype=np.float32).astype("<f4") * np.float32(0.05)
        if base is not None:
            old_dtype, old = base[name]
            old = from_bf16(old) if old_dtype == "BF16" else old
            values = old + values * np.float32(0.2)
        values = np.asarray(values, dtype="<f4")
        tensors[name] = (dtype, to_bf16(values) if dtype == "BF16" else values)
    return tensors


def make_family(folder, shape_list, models, shards=1):
    """`base` and `m1`, `m2`, ... below `folder`."""
    base = synthetic(shape_list, 1)
    write_folder(os.path.join(folder, "base"), base, shards=shards, config=CONFIG)
    with open(os.path.join(folder, "base", "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump({"version": "1.0", "filler": "x" * 40000}, file)
    for k in range(1, models + 1):
        tensors = synthetic(shape_list, 100 + k, base)
        write_folder(os.path.join(folder, f"m{k}"), tensors, shards=shards, config=CONFIG)
