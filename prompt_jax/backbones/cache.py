"""Keys and values that decoding keeps, and what becomes of them at every step."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_jax.backbones.config import ModelConfig
from prompt_jax.backbones.layers import constrain


class LayerCache(NamedTuple):
    """Keys and values of one decoder layer, or of all of them with L in front.

    Heads stand before positions, so that a step reads every head's keys in one piece.
    """

    key: Float[Array, "*L B H U K"]
    value: Float[Array, "*L B H U K"]
    cross_key: Float[Array, "*L B H S K"] | None = None
    cross_value: Float[Array, "*L B H S K"] | None = None


def empty_cache(config: ModelConfig, heads: int, layers: int, batch: int, room: int) -> LayerCache:
    """Room for the keys and values of all layers."""
    zeros = jnp.zeros((layers, batch, heads, room, config.d_kv), config.dtype)
    # By heads, as the keys that are written come; zeros alone would be put on every device.
    zeros = constrain(zeros, config.mesh, None, "batch", "kv_heads")
    return LayerCache(zeros, zeros)


def swap(x: Array) -> Array:
    """[B, S, H, K] from [B, H, S, K], and the reverse."""
    return x.swapaxes(1, 2)


def written(cache: LayerCache, added: LayerCache, index: Int[Array, "*B"]) -> LayerCache:
    """The cache with new positions from `index` on, of all rows or of each.

    Layers only give what is new: a whole cache that came out of their scan would be copied at
    every step, and this one write is in place.
    """
    if index.ndim:
        write = functools.partial(_written_by_row, index=index)
    else:
        # The axis is counted from the right: a layer's cache has no L, the stack's has.
        write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=index, axis=-2)
    key, value = write(cache.key, added.key), write(cache.value, added.value)
    # Keys of cross-attention come with the first call, and no later step changes them.
    filled = added if cache.cross_key is None else cache
    return LayerCache(key, value, filled.cross_key, filled.cross_value)


def _written_by_row(
    kept: Float[Array, "*L B H S K"], added: Float[Array, "*L B H U K"], *, index: Int[Array, " B"]
) -> Float[Array, "*L B H S K"]:
    rows = jnp.arange(len(index))[:, None]
    places = index[:, None] + jnp.arange(added.shape[-2])[None, :]
    # One scatter for all layers. The axes that are picked by number come first in what it takes.
    new = jnp.moveaxis(added, (-4, -2), (0, 1))
    return kept.at[..., rows, :, places, :].set(new)
