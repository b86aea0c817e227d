"""What mergekit's tests import as `tests.common`, which its package leaves out: small models, and a merge with checks.

Models that begin alike and differ a little, as fine-tuned ones do, each by its folder's name."""

import os
import tempfile
import zlib

import mergekit.merge
import torch
import transformers
from mergekit.architecture import arch_info_for_config, get_architecture_info
from mergekit.architecture.conversion import can_convert_checkpoint_keys
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
from mergekit.options import MergeOptions

_TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def _move(model, seed, spread):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn_like(parameter)


def _make(path, kind, config):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = kind(config)
        _move(model, 8, 0.02)  # biases begin with 0
        _move(model, zlib.crc32(os.path.basename(str(path)).encode()), 0.002)
    model.save_pretrained(path)
    return str(path)


def make_picollama(path, vocab_size=64):
    config = transformers.LlamaConfig(vocab_size=vocab_size, num_attention_heads=16, **_TEXT)
    return _make(path, transformers.LlamaForCausalLM, config)


def make_picogranite(path, vocab_size=64):
    config = transformers.GraniteConfig(vocab_size=vocab_size, num_attention_heads=2, num_key_value_heads=2, **_TEXT)
    return _make(path, transformers.GraniteForCausalLM, config)


def make_gpt2size(path):
    """As many layers as GPT-2, but narrow."""
    config = transformers.GPT2Config(n_layer=12, n_head=4, n_embd=64, n_positions=128, vocab_size=503)
    return _make(path, transformers.GPT2LMHeadModel, config)


def make_picoLlaVa(path):  # the name that the tests import
    text = transformers.LlamaConfig(vocab_size=64, num_attention_heads=16, **_TEXT)
    vision = transformers.CLIPVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                           num_attention_heads=2, image_size=32, patch_size=4)
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_seq_length=16)
    return _make(path, transformers.LlavaForConditionalGeneration, config)


def run_and_check_merge(config, check_nan=True, check_tensors=True, validate=None, index_json_name=None,
                        auto_arch=False):
    """Merges and looks at the folder: a model, its configuration, all tensors of its kind, numbers everywhere."""
    index_name = index_json_name or "model.safetensors.index.json"
    with tempfile.TemporaryDirectory() as folder:
        mergekit.merge.run_merge(config, out_path=folder, options=MergeOptions())
        names = os.listdir(folder)
        assert index_name in names or index_name.removesuffix(".index.json") in names, f"no model among {names}"
        assert "config.json" in names, f"no config.json among {names}"
        loader = LazyTensorLoader.from_disk(folder, lazy_unpickle=False)
        tensors = loader.index.tensor_paths
        if check_nan:
            broken = [name for name in tensors if loader.get_tensor(name).isnan().any()]
            assert not broken, f"NaN in {broken}"
        if check_tensors:
            model_config = transformers.AutoConfig.from_pretrained(folder)
            architecture = (get_architecture_info(config, MergeOptions()) if auto_arch
                            else arch_info_for_config(model_config))
            # Names as Transformers has them now, or had when the models were made.
            lacking = [weight.name for weight in architecture.all_weights(model_config)
                       if not weight.optional and not any(
                           can_convert_checkpoint_keys(model_config.model_type, set(tensors), name)
                           for name in (weight.name, *(weight.aliases or ())))]
            assert not lacking, f"tensors that this kind of model has are missing: {lacking}"
        if validate:
            validate(folder)
