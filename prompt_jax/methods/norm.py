"""Norm tuning: a trained factor on every norm (Qi et al. 2022, Zhao et al. 2023)."""

from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import NormConfig
from prompt_jax.forward import Injection


def init(
    config: NormConfig, backbone: Backbone, key: PRNGKeyArray, start: np.ndarray | None = None
) -> dict[str, Any]:
    """By norm, `scale` [L, D], or [D] at the end of a stack, of ones."""
    leaves = {
        path: {"scale": jnp.ones((place.layers, place.width) if place.layers else place.width)}
        for path, place in backbone.sockets.norms.items()
    }
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def materialize(config: NormConfig, tuned: dict[str, Any], key: Any = None) -> Injection:
    """The factors as they are: the tuned tree has the sockets' shape."""
    return Injection(sockets=tuned)
