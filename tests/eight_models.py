"""Models on a mesh of eight fake devices, for `eight_devices*.py`."""

import dataclasses
import functools

import jax
import numpy as np
from jax.sharding import AxisType

from prompt_jax.backbones import Backbone, bert, causal, init_params, shardings, t5
from prompt_jax.data import Batch
from prompt_jax.methods import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from prompt_jax.sharding import AXES
from prompt_jax.testing import CONFIGS

SHAPE = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 8, "num_layers": 2}
NARROW = SHAPE | {"d_kv": 2}
CAUSAL = {"max_positions": 64, "eos_token_ids": (1,)}
MODELS = {
    "t5": t5.T5Config(**SHAPE, num_decoder_layers=2),
    # A vocabulary that nothing divides.
    "gpt2": causal.CausalConfig(
        **{**NARROW, **CAUSAL, "vocab_size": 61}, num_kv_heads=8
    ),
    # Two heads of keys, which eight devices cannot share.
    "llama": causal.CausalConfig(
        **SHAPE, **CAUSAL, model_type="llama", num_kv_heads=2, norm="rms", rope=causal.Rope(),
        fused=None, qkv_bias=False, out_bias=False, mlp_bias=False, activation="silu",
        gated=True, tie_embeddings=False,
    ),
    "gemma2": dataclasses.replace(
        CONFIGS["gemma2"], **SHAPE, num_kv_heads=8, query_scale=None
    ),
    # Kernels of twelve heads, heads that each have three parts, and norms over all heads.
    "phi3": dataclasses.replace(CONFIGS["phi3"], **SHAPE, num_kv_heads=2),
    "gpt_neox": dataclasses.replace(CONFIGS["gpt_neox"], **NARROW, num_kv_heads=8),
    "olmo2": dataclasses.replace(CONFIGS["olmo2"], **SHAPE, num_kv_heads=2),
    "t5gemma": dataclasses.replace(
        CONFIGS["t5gemma"], **SHAPE, num_kv_heads=8,
        decoder=dataclasses.replace(
            CONFIGS["t5gemma"].decoder, **SHAPE | {"num_layers": 3}, num_kv_heads=8
        ),
    ),
    "t5gemma2": dataclasses.replace(
        CONFIGS["t5gemma2"], **SHAPE, num_kv_heads=8,
        decoder=dataclasses.replace(
            CONFIGS["t5gemma2"].decoder, **SHAPE | {"num_layers": 3}, num_kv_heads=8
        ),
    ),
    "bart": dataclasses.replace(
        CONFIGS["bart"], **NARROW, num_kv_heads=8,
        decoder=dataclasses.replace(
            CONFIGS["bart"].decoder, **NARROW | {"num_layers": 3}, num_kv_heads=8
        ),
    ),
    # Kernels of two maps and of three, which a mesh splits behind that axis.
    "modernbert": dataclasses.replace(
        CONFIGS["modernbert"], **NARROW, num_kv_heads=8, full_layers=(1,), mask_token_id=60
    ),
    "deberta": dataclasses.replace(
        CONFIGS["deberta"], **NARROW, mask_token_id=60
    ),
    "bert": bert.BertConfig(**NARROW, max_positions=64, mask_token_id=60),
}  # fmt: skip
METHODS = {
    "prompt": PromptTuningConfig(num_virtual_tokens=4),
    "prefix": PrefixTuningConfig(num_virtual_tokens=4),
    "lora": LoraConfig(r=2),
}


def mesh_of(*sizes):
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3)


def noisy(tree, key=0):
    """Far from zeros and ones, which would hide mistakes."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(key), len(leaves))
    return structure.unflatten(
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    )


@functools.cache
def one_device(name):
    config = MODELS[name]
    params = noisy(init_params(config, jax.random.key(0)))
    return Backbone(name=name, config=config, params=params)


def on_mesh(backbone, mesh):
    config = dataclasses.replace(backbone.config, mesh=mesh)
    params = jax.device_put(backbone.params, shardings(config))
    return dataclasses.replace(backbone, config=config, params=params)


def batch_of(rows=8, text=6, target=2, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(text) < rng.integers(2, text + 1, rows)[:, None]
    tokens = np.where(mask, rng.integers(2, 60, (rows, text)), 0).astype(np.int32)
    tokens[:, :2] = MODELS["bert"].mask_token_id
    targets = rng.integers(2, 60, (rows, target)).astype(np.int32)
    target_mask = np.arange(target) < rng.integers(1, target + 1, rows)[:, None]
    return Batch(tokens, mask, targets, target_mask)
