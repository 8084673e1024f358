"""Bottleneck adapters: behind every sublayer (Houlsby et al. 2019), behind the feed-forward
(Pfeiffer et al. 2021), or beside it (He et al. 2022)."""  # noqa: D205, D209

from dataclasses import dataclass
from typing import Literal, get_args

import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import MethodConfig, choose
from prompt_jax.config.checks import each_at_least_one
from prompt_jax.forward import Injection
from prompt_jax.methods.kernels import by_place
from prompt_jax.methods.method import register_method
from prompt_jax.trees import Tuned

Style = Literal["houlsby", "pfeiffer", "parallel"]


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(MethodConfig):
    """Bottleneck layers beside or behind sublayers (Houlsby et al. 2019, Pfeiffer et al. 2021)."""

    kind = "adapter"

    bottleneck_size: int = 16
    """R, the width of the bottleneck."""
    style: Style = "pfeiffer"
    """Where adapters stand: behind every sublayer (houlsby), behind the feed-forward (pfeiffer), or
    beside it (parallel, He et al. 2022)."""
    scaling: float = 1.0
    """What the adapter's answer is multiplied by."""

    def __post_init__(self):
        super().__post_init__()
        each_at_least_one(self, "bottleneck_size")
        choose("style", self.style, get_args(Style))


STD = 0.02


def init(config: AdapterConfig, backbone: Backbone, key: PRNGKeyArray) -> Tuned:
    """A fresh tree: by block and sublayer, `down` [L, D, R], `up` [L, R, D] of zeros, biases."""
    socket = "parallel" if config.style == "parallel" else "adapter"
    leaves, size = {}, config.bottleneck_size
    for i, (path, block) in enumerate(backbone.sockets.blocks.items()):
        sublayers = block.sublayers if config.style == "houlsby" else block.sublayers[-1:]
        for j, sublayer in enumerate(sublayers):
            down_key = jax.random.fold_in(jax.random.fold_in(key, i), j)
            # With `up` at zero an adapter changes nothing before its first step.
            leaves[f"{path}/{socket}/{sublayer}"] = {
                "down": STD * jax.random.normal(down_key, (block.layers, block.width, size)),
                "down_bias": jnp.zeros((block.layers, size)),
                "up": jnp.zeros((block.layers, size, block.width)),
                "up_bias": jnp.zeros((block.layers, block.width)),
            }
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def materialize(config: AdapterConfig, tuned: Tuned, key: PRNGKeyArray | None = None) -> Injection:
    """The adapters in their blocks' sockets, the scaling in the way up."""
    sockets = {
        path: {
            # `up` and its bias: together they scale the whole answer of the adapter.
            name: leaf * config.scaling if name.startswith("up") else leaf
            for name, leaf in leaves.items()
        }
        for path, leaves in by_place(tuned).items()
    }
    return Injection(sockets=flax.traverse_util.unflatten_dict(sockets))


register_method(AdapterConfig, init=init, materialize=materialize)
