"""Bottleneck adapters: behind every sublayer (Houlsby et al. 2019), behind the feed-forward
(Pfeiffer et al. 2021), or beside it (He et al. 2022)."""  # noqa: D205, D209

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import AdapterConfig
from prompt_jax.forward import Injection

STD = 0.02


def init(
    config: AdapterConfig, backbone: Backbone, key: PRNGKeyArray, start: np.ndarray | None = None
) -> dict[str, Any]:
    """By block and sublayer, `down` [L, D, R], `up` [L, R, D] of zeros, and their biases."""
    socket = "parallel" if config.style == "parallel" else "adapter"
    leaves, size = {}, config.bottleneck_size
    for i, (path, block) in enumerate(backbone.sockets.blocks.items()):
        sublayers = block.sublayers if config.style == "houlsby" else block.sublayers[-1:]
        for j, sublayer in enumerate(sublayers):
            own = jax.random.fold_in(jax.random.fold_in(key, i), j)
            leaves[f"{path}/{socket}/{sublayer}"] = {
                "down": STD * jax.random.normal(own, (block.layers, block.width, size)),
                "down_bias": jnp.zeros((block.layers, size)),
                "up": jnp.zeros((block.layers, size, block.width)),
                "up_bias": jnp.zeros((block.layers, block.width)),
            }
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def materialize(config: AdapterConfig, tuned: dict[str, Any], key: Any = None) -> Injection:
    """The adapters in their blocks' sockets, the scaling in the way up."""
    flat: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(tuned)
    scaled = {
        path: leaf * config.scaling if path[-1].startswith("up") else leaf
        for path, leaf in flat.items()
    }
    return Injection(sockets=flax.traverse_util.unflatten_dict(scaled))
