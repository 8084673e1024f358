"""BitFit: a bias behind every kernel (Ben Zaken et al. 2022), new ones where the model has none."""

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
class BiasConfig(MethodConfig):
    """A trained bias behind every kernel (BitFit, Ben Zaken et al. 2022); T5 has no own ones."""

    kind = "bias"
    rates = {"adamw": 1e-2}


def init(config: BiasConfig, backbone: Backbone, key: PRNGKeyArray) -> Tuned:
    """A fresh tree: by kernel, `bias` [L, *out] of zeros."""
    leaves = {
        path: {"bias": jnp.zeros((place.layers, *place.outputs))}
        for path, place in backbone.sockets.projections.items()
    }
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def materialize(config: BiasConfig, tuned: Tuned, key: PRNGKeyArray | None = None) -> Injection:
    """The biases as they are: the tuned tree has the sockets' shape."""
    return Injection(sockets=dict(tuned))


register_method(BiasConfig, init=init, materialize=materialize)
