"""Who sees whom in a stack: positions of queries, and the biases that hide keys from them."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.causal.config import StackConfig
from prompt_jax.backbones.layers import Causal, mask_bias
from prompt_jax.backbones.sockets import prefix_seen


def sight(
    prefix: dict[str, Array] | None,
    mask: Bool[Array, "B S"],
    counted: Bool[Array, "B S"],
    queries: Int[Array, "#B T"],
    seen: Bool[Array, "#B T S"],
) -> tuple[Int[Array, "B T"], Bool[Array, "B T PS"], Int[Array, "B T PS"]]:
    """The positions of queries, which keys each may see, and how far these stand behind it.

    Args:
      prefix: of the stack's attentions; its P keys stand before all others.
      mask: which of S places are real.
      counted: which of them take a position.
      queries: where the T states stand among them, in all rows or in each.
      seen: which places a query may see where they are real.
    """
    virtual = prefix_seen(prefix, len(mask)) if prefix else jnp.zeros((len(mask), 0), bool)
    # Counted over what is real, so that a row padded on the left is the row without padding.
    positions = jnp.cumsum(jnp.concatenate([virtual, counted], axis=1), axis=1)
    # Padding before the first token counts to -1, which would be the last row of a table.
    positions = jnp.maximum(positions - 1, 0)
    places = jnp.broadcast_to(virtual.shape[1] + queries, (len(mask), queries.shape[1]))
    query_positions = jnp.take_along_axis(positions, places, axis=1)
    # A query that is padding may see no key. `NEVER` is finite, so its softmax is no NaN.
    visible = seen & mask[:, None, :]
    # A prefix stands before all of a text, and so every query sees it.
    before = jnp.broadcast_to(virtual[:, None], (*visible.shape[:2], virtual.shape[1]))
    visible = jnp.concatenate([before, visible], axis=2)
    return query_positions, visible, query_positions[:, :, None] - positions[:, None, :]


def both_ways(
    config: StackConfig, prefix: dict[str, Array] | None, mask: Bool[Array, "B S"]
) -> tuple[Int[Array, "B S"], Float[Array, "W B 1 S PS"]]:
    """Positions of a text whose places all see each other, and what its layers read as `biases`."""
    places = jnp.arange(mask.shape[1])
    seen = jnp.ones((1, len(places), len(places)), bool)
    positions, visible, behind = sight(prefix, mask, mask, places[None], seen)
    if config.split_window:
        # The nearest come first, and of two that are as near the one ahead: an even window
        # reaches one further ahead than behind.
        away = jnp.where(behind < 0, -2 * behind - 1, 2 * behind)
    else:  # As far to either side, beside the position itself.
        away = jnp.abs(behind) - 1
    return positions, layer_biases(config, visible, away)


def layer_biases(
    config: StackConfig, visible: Bool[Array, "B T S"], behind: Int[Array, "B T S"]
) -> Float[Array, "W B 1 T S"]:
    """The bias of every kind of layer: of full ones, of those with a window, or of both.

    Args:
      behind: how far behind a query a key stands, or how many places are nearer.
    """
    views = [visible]
    if config.sliding_window is not None:
        near = visible & (behind < config.sliding_window)
        views = [visible, near] if config.full_layers else [near]
    # Once for all layers; each picks its view by number, as a scan cannot branch by layer.
    return mask_bias(jnp.stack(views))[:, :, None]


def causal_biases(
    config: StackConfig, visible: Bool[Array, "B T S"], behind: Int[Array, "B T S"]
) -> Float[Array, "W B 1 T S"] | Causal:
    """The bias of layers whose queries stand from the first place on and see what is before them.

    Args:
      behind: as for `layer_biases`.
    """
    # A window as long as all keys hides none.
    if config.kernel == "pallas" and (config.sliding_window or math.inf) >= visible.shape[2]:
        return Causal(visible[:, -1])
    return layer_biases(config, visible, behind)
