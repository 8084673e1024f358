"""How DeBERTa's attention reads the distance from a query to a key (He et al. 2021, section 3.1).

A query meets the embedding of the distance (content to position), and so does a key (position to
content): two numbers that are added to the score of what the two hold.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prompt_jax.backbones.bert.config import Distances


class Read(NamedTuple):
    """The distances of a batch, the same for all layers."""

    embeddings: Float[Array, "#B N D"]
    places: Int[Array, "B T PS"]
    """Which of the N embeddings belongs to a query and a key."""


def embedding_places(
    distances: Distances, queries: Int[Array, "B T"], keys: Int[Array, "B S"]
) -> Int[Array, "B T S"]:
    """The embedding of every distance: the far ones to the left of a query come last."""
    behind = queries[:, :, None] - keys[:, None, :]
    span = distances.span
    if distances.buckets:
        buckets = jnp.asarray(_buckets(distances))
        behind = jnp.sign(behind) * buckets[jnp.minimum(jnp.abs(behind), distances.reach)]
    return jnp.clip(behind + span, 0, 2 * span - 1)


def _buckets(distances: Distances) -> Int[np.ndarray, " N"]:
    """The bucket of every distance to one side, up to `reach`."""
    # By NumPy: the last bucket begins where a quotient of logarithms is one, and those of a program
    # and of the compiler that folds a constant may differ in their last digit.
    near, middle = np.arange(distances.reach + 1), distances.buckets // 2
    # As far as half of the buckets each distance has its own, and then by logarithm.
    far = np.log(np.maximum(near, middle).astype(np.float32) / np.float32(middle))
    last = np.log(np.float32((distances.reach - 1) / middle))
    steps = np.ceil(far / last * np.float32(middle - 1))
    return np.where(near <= middle, near, steps + middle).astype(np.int32)


def content_to_position(
    query: Float[Array, "B T H K"], key: Float[Array, "#B N H K"], places: Int[Array, "B T S"]
) -> Float[Array, "B H T S"]:
    """Scores of queries with the keys of their distances to all keys."""
    scores = jnp.einsum("bthk,bnhk->bhtn", query, key, preferred_element_type=jnp.float32)
    # All embeddings first, and then a look-up: there are fewer of them than pairs have states.
    return jnp.take_along_axis(scores, places[:, None], axis=3)


def position_to_content(
    query: Float[Array, "#B N H K"], key: Float[Array, "#B S H K"], places: Int[Array, "B T S"]
) -> Float[Array, "B H T S"]:
    """Scores of keys with the queries of their distances to all queries."""
    scores = jnp.einsum("bnhk,bshk->bhns", query, key, preferred_element_type=jnp.float32)
    return jnp.take_along_axis(scores, places[:, None], axis=2)
