#!/usr/bin/env python3
"""Makes the models that the recipes of this folder name, small enough to merge in a moment. Needs numpy only.

    make_models.py OUT [NAME...]       # OUT/NAME for every model, or for those that are named

Tensor names, configuration, numbers of layers and experts and what is tied are those of the real families; the widths
are not. Values are made up from each model's name: the same on every machine. A fine-tuned model moves a tenth of its
base's spread, and only where it was "trained".
"""
import json
import os
import struct
import sys
import zlib

import numpy as np

VOCABULARY, HIDDEN, INNER = 96, 32, 48
VISION = 24


def llama(layers, key_heads=2, biases=False, tied=False, prefix="", stem="model."):
    """(name, shape) of a Llama and its many relatives: 4 heads of 8, key and value heads shared."""
    yield prefix + stem + "embed_tokens.weight", (VOCABULARY, HIDDEN)
    for i in range(layers):
        layer = f"{prefix}{stem}layers.{i}."
        yield from attention(layer, key_heads, biases)
        yield from mlp(layer + "mlp.")
        yield layer + "input_layernorm.weight", (HIDDEN,)
        yield layer + "post_attention_layernorm.weight", (HIDDEN,)
    yield prefix + stem + "norm.weight", (HIDDEN,)
    if not tied:
        yield prefix + "lm_head.weight", (VOCABULARY, HIDDEN)


def attention(layer, key_heads, biases=False):
    for name, rows in (("q", HIDDEN), ("k", 8 * key_heads), ("v", 8 * key_heads)):
        yield f"{layer}self_attn.{name}_proj.weight", (rows, HIDDEN)
        if biases:
            yield f"{layer}self_attn.{name}_proj.bias", (rows,)
    yield layer + "self_attn.o_proj.weight", (HIDDEN, HIDDEN)


def mlp(prefix, gate="gate_proj", up="up_proj", down="down_proj"):
    yield f"{prefix}{gate}.weight", (INNER, HIDDEN)
    yield f"{prefix}{up}.weight", (INNER, HIDDEN)
    yield f"{prefix}{down}.weight", (HIDDEN, INNER)


def gemma2(layers):
    for name, shape in llama(layers, tied=True):
        yield name, shape
        if name.endswith(".post_attention_layernorm.weight"):
            layer = name.removesuffix("post_attention_layernorm.weight")
            yield layer + "pre_feedforward_layernorm.weight", shape
            yield layer + "post_feedforward_layernorm.weight", shape


def phi3(layers):
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for i in range(layers):
        layer = f"model.layers.{i}."
        yield layer + "self_attn.qkv_proj.weight", (3 * HIDDEN, HIDDEN)
        yield layer + "self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield layer + "mlp.gate_up_proj.weight", (2 * INNER, HIDDEN)
        yield layer + "mlp.down_proj.weight", (HIDDEN, INNER)
        yield layer + "input_layernorm.weight", (HIDDEN,)
        yield layer + "post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def mixtral(layers, experts):
    for name, shape in llama(layers):
        if ".mlp.down_proj" in name:  # in the place of the one feed-forward block
            layer = name.split("mlp.")[0]
            yield layer + "block_sparse_moe.gate.weight", (experts, HIDDEN)
            for e in range(experts):
                yield from mlp(f"{layer}block_sparse_moe.experts.{e}.", "w1", "w3", "w2")
        elif ".mlp." not in name:
            yield name, shape


def qwen2_vl(layers, depth):
    yield "visual.patch_embed.proj.weight", (VISION, 3, 2, 4, 4)
    for i in range(depth):
        block = f"visual.blocks.{i}."
        for name, shape in (("attn.qkv", (3 * VISION, VISION)), ("attn.proj", (VISION, VISION)),
                            ("mlp.fc1", (2 * VISION, VISION)), ("mlp.fc2", (VISION, 2 * VISION))):
            yield f"{block}{name}.weight", shape
            yield f"{block}{name}.bias", shape[:1]
        for norm in ("norm1", "norm2"):
            yield f"{block}{norm}.weight", (VISION,)
            yield f"{block}{norm}.bias", (VISION,)
    yield "visual.merger.ln_q.weight", (VISION,)
    yield "visual.merger.ln_q.bias", (VISION,)
    for number, shape in ((0, (4 * VISION, 4 * VISION)), (2, (HIDDEN, 4 * VISION))):
        yield f"visual.merger.mlp.{number}.weight", shape
        yield f"visual.merger.mlp.{number}.bias", shape[:1]
    yield from llama(layers, biases=True)


def config(architecture, model_type, layers, **more):
    return {"architectures": [architecture], "model_type": model_type, "num_hidden_layers": layers,
            "hidden_size": HIDDEN, "intermediate_size": INNER, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": VOCABULARY, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "torch_dtype": "bfloat16", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, **more}


# Family -> tensors, configuration, dtype.
FAMILIES = {
    "mistral-7b": (llama(32), config("MistralForCausalLM", "mistral", 32, head_dim=8), "BF16"),
    "llama-3-8b": (llama(32), config("LlamaForCausalLM", "llama", 32, head_dim=8), "BF16"),
    "llama-2-13b": (llama(40, key_heads=4), config("LlamaForCausalLM", "llama", 40, num_key_value_heads=4,
                                                   torch_dtype="float16", head_dim=8), "F16"),
    "qwen2.5-1.5b": (llama(28, biases=True, tied=True),
                     config("Qwen2ForCausalLM", "qwen2", 28, tie_word_embeddings=True), "BF16"),
    "qwen2.5-14b": (llama(48, biases=True), config("Qwen2ForCausalLM", "qwen2", 48), "BF16"),
    "gemma-2-2b": (gemma2(26), config("Gemma2ForCausalLM", "gemma2", 26, tie_word_embeddings=True, head_dim=8), "BF16"),
    "phi-3-mini": (phi3(32), config("Phi3ForCausalLM", "phi3", 32, num_key_value_heads=4, pad_token_id=0), "BF16"),
    "mixtral-8x7b": (mixtral(32, 8), config("MixtralForCausalLM", "mixtral", 32, num_local_experts=8,
                                            num_experts_per_tok=2, head_dim=8), "BF16"),
    "qwen2-vl-7b": (qwen2_vl(28, 32),
                    config("Qwen2VLForConditionalGeneration", "qwen2_vl", 28,
                           vision_config={"depth": 32, "embed_dim": VISION, "hidden_size": HIDDEN, "num_heads": 4,
                                          "mlp_ratio": 2, "patch_size": 4, "temporal_patch_size": 2,
                                          "in_channels": 3, "spatial_merge_size": 2, "model_type": "qwen2_vl"},
                           rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]}), "BF16"),
}
# Model -> its family; what is trained if not everything. The first of a family is its base.
MODELS = {
    "mistral-7b-base": ("mistral-7b", None),
    "mistral-7b-instruct": ("mistral-7b", None),
    "mistral-7b-storyteller": ("mistral-7b", None),
    "mistral-7b-math": ("mistral-7b", None),
    "mistral-7b-chatml": ("mistral-7b", None),
    "llama-3-8b-base": ("llama-3-8b", None),
    "llama-3-8b-instruct": ("llama-3-8b", None),
    "llama-3-8b-code": ("llama-3-8b", "self_attn"),
    "llama-3-8b-medical": ("llama-3-8b", None),
    "llama-3-8b-finance": ("llama-3-8b", "mlp"),
    "llama-2-13b-base": ("llama-2-13b", None),
    "llama-2-13b-novelist": ("llama-2-13b", None),
    "llama-2-13b-roleplay": ("llama-2-13b", None),
    "qwen2.5-1.5b-base": ("qwen2.5-1.5b", None),
    "qwen2.5-1.5b-instruct": ("qwen2.5-1.5b", None),
    "qwen2.5-1.5b-german": ("qwen2.5-1.5b", None),
    "qwen2.5-1.5b-toxic": ("qwen2.5-1.5b", "mlp"),
    "qwen2.5-14b-base": ("qwen2.5-14b", None),
    "qwen2.5-14b-reasoning": ("qwen2.5-14b", None),
    "qwen2.5-14b-writer": ("qwen2.5-14b", None),
    "gemma-2-2b-base": ("gemma-2-2b", None),
    "gemma-2-2b-it": ("gemma-2-2b", None),
    "gemma-2-2b-japanese": ("gemma-2-2b", None),
    "gemma-2-2b-tools": ("gemma-2-2b", None),
    "phi-3-mini-base": ("phi-3-mini", None),
    "phi-3-mini-instruct": ("phi-3-mini", None),
    "phi-3-mini-sql": ("phi-3-mini", None),
    "phi-3-mini-legal": ("phi-3-mini", None),
    "mixtral-8x7b-base": ("mixtral-8x7b", None),
    "mixtral-8x7b-instruct": ("mixtral-8x7b", None),
    "mixtral-8x7b-chat": ("mixtral-8x7b", None),
    "mixtral-8x7b-code": ("mixtral-8x7b", "experts"),
    "qwen2-vl-7b-base": ("qwen2-vl-7b", None),
    "qwen2-vl-7b-documents": ("qwen2-vl-7b", None),
    "qwen2-vl-7b-charts": ("qwen2-vl-7b", None),
}

# Tokens that a model has beyond its family's; they have a row each behind all others.
NEW_TOKENS = {"mistral-7b-chatml": ["<|im_start|>", "<|im_end|>"]}


def to_bf16(values):
    bits = values.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def values_of(model, tensors):
    """name -> float32 values."""
    family, trained = MODELS[model]
    base = next(name for name, (of, _) in MODELS.items() if of == family)
    random = np.random.Generator(np.random.PCG64(zlib.crc32(base.encode())))
    # One base, and then what training adds to it.
    found = {name: centre(name) + np.float32(0.05) * random.standard_normal(shape, dtype=np.float32)
             for name, shape in tensors}
    if model != base:
        random = np.random.Generator(np.random.PCG64(zlib.crc32(model.encode())))
        for name, shape in tensors:
            change = np.float32(0.005) * random.standard_normal(shape, dtype=np.float32)
            if trained is None or trained in name:
                found[name] = found[name] + change
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = len(NEW_TOKENS.get(model, []))
        if rows > 0:
            new = np.float32(0.05) * random.standard_normal((rows, HIDDEN), dtype=np.float32)
            found[name] = np.concatenate([found[name], new])
    return found


def centre(name):
    return np.float32(1 if "norm" in name and name.endswith(".weight") else 0)


def write_model(folder, model, tensors):
    family = FAMILIES[MODELS[model][0]]
    dtype, encode = family[2], to_bf16 if family[2] == "BF16" else lambda values: values.astype("<f2")
    header, data = {"__metadata__": {"format": "pt"}}, []
    offset = 0
    for name, values in values_of(model, tensors).items():
        data.append(encode(values).tobytes())
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [offset, offset + len(data[-1])]}
        offset += len(data[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(folder)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data))
    new_tokens = NEW_TOKENS.get(model, [])
    write_json(folder, "config.json", {**family[1], "vocab_size": VOCABULARY + len(new_tokens)})
    words = ["<unk>", "<s>", "</s>"] + [f"word{i}" for i in range(3, VOCABULARY)]
    write_json(folder, "tokenizer.json", {
        "version": "1.0", "added_tokens": [
            {"id": VOCABULARY + i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i, token in enumerate(new_tokens)], "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {word: i for i, word in enumerate(words)}}})
    write_json(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"})


def write_json(folder, name, content):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out, wanted = sys.argv[1], sys.argv[2:] or list(MODELS)
    unknown = [name for name in wanted if name not in MODELS]
    if unknown:
        sys.exit(f"make_models.py: no model {', '.join(unknown)}; there are {', '.join(MODELS)}")
    lists = {family: list(tensors) for family, (tensors, _, _) in FAMILIES.items()}
    for name in wanted:
        if not os.path.exists(os.path.join(out, name)):
            write_model(os.path.join(out, name), name, lists[MODELS[name][0]])


if __name__ == "__main__":
    main()
