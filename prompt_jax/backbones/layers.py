"""Layers that backbones share: a bias-free Dense, RMSNorm, attention over explicit biases.

Parameters have their natural shape, [D, H, K] and not [D, H*K], and name their axes where they
are born, so that sharding is a table of names and nothing here knows a mesh.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

NEVER = -1e9  # Added to a masked score: exp() of it is exactly zero, and unlike -inf it has no NaN.


class Dense(nn.Module):
    """A linear map without bias over the trailing axes of its input."""

    shape: Sequence[int]
    axes: Sequence[str]
    std: float
    contracted: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.std), tuple(self.axes))
        kernel = self.param("kernel", init, tuple(self.shape)).astype(self.dtype)
        ours = tuple(range(x.ndim - self.contracted, x.ndim))
        theirs = tuple(range(self.contracted))
        return jax.lax.dot_general(x.astype(self.dtype), kernel, ((ours, theirs), ((), ())))


class RMSNorm(nn.Module):
    """Root-mean-square normalisation; the statistics are float32 whatever the dtype."""

    width: int
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        init = nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",))
        scale = self.param("scale", init, (self.width,)).astype(self.dtype)
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide * inverse).astype(self.dtype) * jnp.broadcast_to(scale, x.shape)


def relative_buckets(
    query: Int[Array, " T"],
    key: Int[Array, " S"],
    *,
    bidirectional: bool,
    buckets: int = 32,
    max_distance: int = 128,
) -> Int[Array, "T S"]:
    """The bucket of every query-key distance: exact when near, logarithmic when far.

    Raffel et al. 2020, section 2.1; distances from `max_distance` on share the last bucket.
    """
    distance = key[None, :] - query[:, None]
    offset = jnp.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1) / exact) / jnp.log(max_distance / exact)
    far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return offset + jnp.where(distance < exact, distance, far)


def mask_bias(mask: Bool[Array, "*B S"]) -> Float[Array, "*B S"]:
    """Zero where a key may be seen, `NEVER` where not."""
    return jnp.where(mask, 0.0, NEVER)


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    bias: Float[Array, "#B #H #T S"],
) -> Float[Array, "B T H K"]:
    """Softmax attention with an additive bias; scores and softmax are float32."""
    scores = jnp.einsum("bthk,bshk->bhts", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores + jnp.broadcast_to(bias, scores.shape), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", weights.astype(value.dtype), value)
