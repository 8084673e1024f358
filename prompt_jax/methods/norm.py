"""Norm tuning: a trained factor on every norm (Qi et al. 2022, Zhao et al. 2023)."""

from dataclasses import dataclass

import flax.traverse_util
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import MethodConfig
from prompt_jax.forward import Injection
from prompt_jax.methods.method import register_method
from prompt_jax.trees import Tuned


@dataclass(frozen=True, kw_only=True)
class NormConfig(MethodConfig):
    """A trained factor on every norm."""

    kind = "norm"
    rates = {"adamw": 1e-2}


def init(config: NormConfig, backbone: Backbone, key: PRNGKeyArray) -> Tuned:
    """A fresh tree: by norm, `scale` [L, D], or [D] at the end of a stack, of ones."""
    leaves = {
        path: {"scale": jnp.ones((place.layers, place.width) if place.layers else place.width)}
        for path, place in backbone.sockets.norms.items()
    }
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def materialize(config: NormConfig, tuned: Tuned, key: PRNGKeyArray | None = None) -> Injection:
    """The factors as they are: the tuned tree has the sockets' shape."""
    return Injection(sockets=dict(tuned))


register_method(NormConfig, init=init, materialize=materialize)
