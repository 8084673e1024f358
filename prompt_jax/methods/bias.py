"""BitFit: a bias behind every kernel (Ben Zaken et al. 2022), new ones where the model has none."""

from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import BiasConfig
from prompt_jax.forward import Injection


def init(
    config: BiasConfig, backbone: Backbone, key: PRNGKeyArray, start: np.ndarray | None = None
) -> dict[str, Any]:
    """By kernel, `bias` [L, *out] of zeros."""
    leaves = {
        path: {"bias": jnp.zeros((place.layers, *place.outputs))}
        for path, place in backbone.sockets.projections.items()
    }
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def materialize(config: BiasConfig, tuned: dict[str, Any], key: Any = None) -> Injection:
    """The biases as they are: the tuned tree has the sockets' shape."""
    return Injection(sockets=tuned)
