"""LoRA: low-rank updates of frozen kernels (Hu et al. 2021); rsLoRA and DoRA by field."""

import dataclasses
import math
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.quantised import check_whole, dequantised
from prompt_jax.config import FullConfig, LoraConfig
from prompt_jax.forward import Injection
from prompt_jax.methods.targets import first_of, targets

TARGETS = (("q", "v"), ("c_attn",), ("q_proj", "v_proj"), ("query", "value"), ("q_lin", "v_lin"))
"""Where none are named: of T5, GPT-2, Llama, BERT and DistilBERT."""


def resolve(config: LoraConfig, backbone: Backbone) -> LoraConfig:
    """The config with names of kernels."""
    names = config.target_modules or first_of(backbone, TARGETS)
    return dataclasses.replace(config, target_modules=names)


def init(
    config: LoraConfig, backbone: Backbone, key: PRNGKeyArray, start: np.ndarray | None = None
) -> dict[str, Any]:
    """By kernel, `a` [L, *in, R] drawn as PEFT does, `b` [L, R, *out] of zeros, `magnitude`."""
    leaves = {}
    for i, (path, place) in enumerate(targets(backbone, config.target_modules).items()):
        bound = math.prod(place.inputs) ** -0.5
        shape = (place.layers, *place.inputs, config.r)
        draw = jax.random.uniform(jax.random.fold_in(key, i), shape, minval=-bound, maxval=bound)
        leaves[path] = {"a": draw, "b": jnp.zeros((place.layers, config.r, *place.outputs))}
        if config.use_dora:
            kernel = dequantised(backbone.params, f"{path}/kernel")
            axes = tuple(range(1, 1 + len(place.inputs)))
            norm = jnp.sqrt(jnp.square(kernel.astype(jnp.float32)).sum(axes))
            leaves[path]["magnitude"] = norm
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def by_kernel(tuned: dict[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    """The leaves of every kernel, by its path."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for (*path, name), leaf in flax.traverse_util.flatten_dict(tuned).items():
        found.setdefault(tuple(path), {})[name] = leaf
    return found


def materialize(config: LoraConfig, tuned: dict[str, Any], key: Any = None) -> Injection:
    """The factors in their kernels' sockets, the scaling in the second one."""
    sockets = {}
    for path, leaves in by_kernel(tuned).items():
        lora = {**leaves, "b": leaves["b"] * config.scaling}
        if config.lora_dropout and key is not None:
            lora["dropout"] = jnp.full(len(leaves["b"]), config.lora_dropout)
        sockets[(*path, "lora")] = lora
    return Injection(sockets=flax.traverse_util.unflatten_dict(sockets))


def merge(config: LoraConfig, tuned: Any, frozen: Any) -> tuple[FullConfig, Any]:
    """The frozen tree with the updates added to its kernels.

    The frozen tree stays as it is, so that unmerging is going back to it.

    Raises:
      InputError: its kernels are held in few bits.
    """
    check_whole(frozen, "merging")
    params = flax.traverse_util.flatten_dict(frozen)
    for path, leaves in by_kernel(tuned).items():
        kernel = params[(*path, "kernel")]
        update = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))(leaves["a"], leaves["b"])
        merged = kernel.astype(jnp.float32) + config.scaling * update
        if "magnitude" in leaves:
            axes = tuple(range(1, leaves["a"].ndim - 1))
            norm = jnp.sqrt(jnp.square(merged).sum(axes, keepdims=True))
            magnitude = leaves["magnitude"]
            merged = merged * jnp.expand_dims(magnitude, axes) / norm
        params[(*path, "kernel")] = merged.astype(kernel.dtype)
    return FullConfig(task_type=config.task_type), flax.traverse_util.unflatten_dict(params)
