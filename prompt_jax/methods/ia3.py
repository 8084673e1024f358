"""IA3: trained factors on keys, values and the feed-forward's inner states (Liu et al. 2022)."""

import dataclasses
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import IA3Config, InputError
from prompt_jax.forward import Injection
from prompt_jax.methods.targets import first_of, targets

TARGETS = (
    ("k", "v", "wo"),
    ("c_attn", "mlp.c_proj"),
    ("k_proj", "v_proj", "down_proj"),
    ("key", "value", "output.dense"),
    ("k_lin", "v_lin", "ffn.lin2"),
)
"""Where none are named: of T5, GPT-2, Llama, BERT and DistilBERT. The last is scaled at its input:
of BERT, whose attentions end in the same name, these as well."""


def resolve(config: IA3Config, backbone: Backbone) -> IA3Config:
    """The config with names of kernels."""
    if config.target_modules:
        return config
    names = first_of(backbone, TARGETS)
    feedforward = config.feedforward_modules or names[-1:]
    return dataclasses.replace(config, target_modules=names, feedforward_modules=feedforward)


def init(
    config: IA3Config, backbone: Backbone, key: PRNGKeyArray, start: np.ndarray | None = None
) -> dict[str, Any]:
    """By kernel, `scale` [L, *out], or `input_scale` [L, *in] of a feed-forward; ones at first.

    Raises:
      InputError: a feed-forward module that is no target, or a target that matches nothing.
    """
    for module in config.feedforward_modules:
        if module not in config.target_modules:
            raise InputError(
                f"feedforward_modules name {module!r} is not among target_modules "
                f"{', '.join(config.target_modules)}; add it there"
            )
    scaled_in = targets(backbone, config.feedforward_modules)
    leaves = {}
    for path, place in targets(backbone, config.target_modules).items():
        name, size = (
            ("input_scale", place.inputs) if path in scaled_in else ("scale", place.outputs)
        )
        leaves[path] = {name: jnp.ones((place.layers, *size))}
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def materialize(config: IA3Config, tuned: dict[str, Any], key: Any = None) -> Injection:
    """The factors as they are: the tuned tree has the sockets' shape."""
    return Injection(sockets=tuned)
