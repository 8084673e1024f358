"""What attention adds to scores: a mask, a bias by distance, or word of who sees whom."""

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.layers import mask_bias


class ByBucket(NamedTuple):
    """A bias that is looked up where scores need it: a number for every head and bucket."""

    table: Float[Array, "N H"]
    buckets: Int[Array, "*B T PS"]

    def rows(self) -> Float[Array, "#B H T PS"]:
        """The bias of these queries."""
        # Gathered and not by one-hot: the table has a few hundred numbers, the scores millions.
        rows = jnp.moveaxis(self.table[self.buckets], -1, -3)
        return rows if rows.ndim == 4 else rows[None]


class Causal(NamedTuple):
    """Every query sees the real keys up to its own place, and all P keys of a prefix before them.

    As an array, and not as scores: a kernel that holds few scores at a time makes its own mask.
    """

    real: Bool[Array, "B PS"]

    def rows(self, queries: int, prefix: int) -> Float[Array, "B 1 T PS"]:
        """The bias of the first queries, behind P = `prefix` keys."""
        places = jnp.arange(self.real.shape[1])
        seen = places[None, :] <= prefix + jnp.arange(queries)[:, None]
        return mask_bias(seen[None] & self.real[:, None, :])[:, None]


Bias: TypeAlias = Float[Array, "#B #H #T PS"] | ByBucket | Causal
