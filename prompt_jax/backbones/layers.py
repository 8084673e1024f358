"""Layers that backbones share: Dense, the two norms, attention over explicit biases.

Parameters have their natural shape, [D, H, K] and not [D, H*K], and name their axes where they
are born, so that sharding is a table of names: what an axis of a mesh is, only `sharding` knows.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from prompt_jax.backbones.quantised import is_grouped, scale_of, widened
from prompt_jax.backbones.sockets import (
    gated,
    low_rank,
    magnitude_ratio,
    per_row,
    prefix_scores,
    prefix_values,
    socket,
)
from prompt_jax.sharding import constrain

NEVER = -1e9  # Added to a masked score: exp() of it is exactly zero, and unlike -inf it has no NaN.


class Dense(nn.Module):
    """A linear map over the trailing axes of its input [B, T, *in]."""

    shape: Sequence[int]
    axes: Sequence[str]
    std: float
    contracted: int = 1
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    as_matrix: bool = True
    """False where a mesh splits an axis behind another one, which no matrix could keep."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T *in"]) -> Float[Array, "B T *out"]:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.std), tuple(self.axes))
        kernel = self.param("kernel", init, tuple(self.shape))
        factor = scale_of(self, "kernel")
        outputs = kernel.shape[self.contracted :]
        x = x.astype(self.dtype)
        input_scale = socket(self, "input_scale")
        if input_scale is not None:
            x = x * per_row(input_scale, x)
        product = functools.partial(_product, self.contracted if self.as_matrix else None)
        if factor is None:
            y = product(x, kernel)
        else:
            groups = (factor,) if is_grouped(kernel, factor) else ()
            # Or the backward pass would keep what it makes of the kernel, beside the kernel.
            y = jax.checkpoint(product)(x, kernel, *groups)
            y = y if groups else y * per_row(factor, y)
        lora = socket(self, "lora")
        if lora is not None:
            change = low_rank(_dropped(self, x, lora), lora, self.contracted)
            y = y + gated(x, lora, change)
            if "magnitude" in lora:
                axes = range(self.contracted, kernel.ndim)
                whole = kernel if factor is None else widened(kernel, factor, axes)
                y = y * per_row(magnitude_ratio(whole, lora, self.contracted), y)
        if self.use_bias:  # Behind DoRA, whose magnitude is that of the kernel alone.
            zeros = nn.initializers.zeros_init()
            zeros = nn.with_logical_partitioning(zeros, tuple(self.axes[self.contracted :]))
            y = y + per_row(self.param("bias", zeros, outputs), y)
        bias, scale = socket(self, "bias"), socket(self, "scale")
        y = y if bias is None else y + per_row(bias, y)
        return y if scale is None else y * per_row(scale, y)


def _product(
    as_matrix: int | None,
    x: Float[Array, "B T *in"],
    kernel: Shaped[Array, "*in_out"],
    groups: Float[Array, "*scales"] | None = None,
) -> Float[Array, "B T *out"]:
    kernel = kernel if groups is None else widened(kernel, groups, ())
    kernel = kernel.astype(x.dtype)
    if as_matrix is None:
        return jnp.tensordot(x, kernel, x.ndim - 2)
    # The transposed product of the backward pass would copy a kernel of rank 3.
    inputs, outputs = kernel.shape[:as_matrix], kernel.shape[as_matrix:]
    matrix = kernel.reshape(math.prod(inputs), math.prod(outputs))
    return (x.reshape(*x.shape[:2], -1) @ matrix).reshape(*x.shape[:2], *outputs)


def _dropped(module: nn.Module, x: Array, lora: dict[str, Array]) -> Array:
    """The input of a LoRA: with dropout where it asks for it and a "dropout" rng is given."""
    if "dropout" not in lora or not module.has_rng("dropout"):
        return x
    keep = 1.0 - lora["dropout"]
    kept = jax.random.bernoulli(module.make_rng("dropout"), keep, x.shape)
    return jnp.where(kept, x / keep.astype(x.dtype), 0.0)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation; the statistics are float32 whatever the dtype."""

    width: int
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "B T *H D"]) -> Float[Array, "B T *H D"]:
        init = nn.with_logical_partitioning(nn.initializers.ones_init(), (self.axis,))
        scale = self.param("scale", init, (self.width,)).astype(self.dtype)
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        y = (wide * inverse).astype(self.dtype) * jnp.broadcast_to(scale, x.shape)
        tuned = socket(self, "scale")
        return y if tuned is None else y * per_row(tuned, y)


class LayerNorm(nn.Module):
    """Normalisation to mean 0 and variance 1; the statistics are float32 whatever the dtype."""

    width: int
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        leaf = functools.partial(nn.with_logical_partitioning, names=("embed",))
        scale = self.param("scale", leaf(nn.initializers.ones_init()), (self.width,))
        bias = self.param("bias", leaf(nn.initializers.zeros_init()), (self.width,))
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.epsilon)
        y = (centred * inverse).astype(self.dtype)
        y = y * per_row(scale, y) + per_row(bias, y)
        tuned, shift = socket(self, "scale"), socket(self, "bias")
        y = y if tuned is None else y * per_row(tuned, y)
        return y if shift is None else y + per_row(shift, y)


def look_up(module: nn.Module, name: str, tokens: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
    """Rows of a module's table [V, D].

    On a mesh the table stays where it is, split over words: every device looks up those that it
    has, and the sum over devices has them all.
    """
    c, table, scale = module.config, getattr(module, name), scale_of(module, name)
    tokens = constrain(tokens, c.mesh, "rows")
    found = constrain(table[tokens], c.mesh, "rows")
    found = found if scale is None else widened(found, scale[tokens], ())
    return constrain(found.astype(c.dtype), c.mesh, "batch")


def word_logits(
    module: nn.Module, states: Float[Array, "B T D"], head: Dense | None = None
) -> Float[Array, "B T V"]:
    """Logits in float32, of a head or of the tied word table; on a mesh, split over words."""
    c = module.config
    states = constrain(states, c.mesh, "rows")
    if head is not None:
        logits = head(states)
    else:
        table, scale = module.embedding, scale_of(module, "embedding")
        table = table if scale is None else widened(table, scale, ())
        table = constrain(table.astype(c.dtype), c.mesh, "vocab")
        logits = jnp.einsum("btd,vd->btv", states, table)
    return constrain(logits.astype(jnp.float32), c.mesh, "rows", None, "vocab")


def relative_buckets(
    query: Int[Array, " T"],
    key: Int[Array, "*B S"],
    *,
    bidirectional: bool,
    buckets: int = 32,
    max_distance: int = 128,
) -> Int[Array, "*B T S"]:
    """The bucket of every query-key distance: exact when near, logarithmic when far.

    Keys may stand elsewhere in every row. Raffel et al. 2020, section 2.1; distances from
    `max_distance` on share the last bucket.
    """
    query = query.reshape(*[1] * (key.ndim - 1), -1, 1)
    distance = key[..., None, :] - query
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


def by_heads(mesh: Any, *states: Float[Array, "B T H K"], axis: str = "heads") -> list[Array]:
    """Queries, keys or values with their heads where those of the kernels are."""
    return [constrain(x, mesh, "batch", None, axis) for x in states]


def mask_bias(mask: Bool[Array, "*B S"]) -> Float[Array, "*B S"]:
    """Zero where a key may be seen, `NEVER` where not."""
    return jnp.where(mask, 0.0, NEVER)


class ByBucket(NamedTuple):
    """A bias that is looked up where scores need it: a number for every head and bucket."""

    table: Float[Array, "N H"]
    buckets: Int[Array, "*B T PS"]

    def rows(self) -> Float[Array, "#B H T PS"]:
        """The bias of these queries."""
        found = jnp.moveaxis(self.table[self.buckets], -1, -3)
        return found if found.ndim == 4 else found[None]


Bias = Float[Array, "#B #H #T PS"] | ByBucket


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    biases: Sequence[Bias],
    prefix: dict[str, Array] | None = None,
    opened: Float[Array, "B T"] | None = None,
    chunk: int | None = None,
) -> Float[Array, "B T H K"]:
    """Softmax attention with additive biases; scores and softmax are float32.

    Args:
      biases: their sum also covers the P keys of the prefix, which stand before all others.
      prefix: a `prefix` socket.
      opened: what its gate multiplies its keys and its values by, for every query.
      chunk: queries that are answered at a time, so that their scores alone are in memory; None
        answers all at once.
    """
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    length = query.shape[2]
    if chunk is None or length <= chunk:
        return _answers(query, key, value, biases, prefix, opened).swapaxes(1, 2)

    # Each chunk's scores are made again for the backward pass, or it would keep them all.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def answer(first: Int[Array, ""]) -> Float[Array, "B H C K"]:
        # Tied to the queries: what depends on no layer, as biases do, a loop over layers would
        # make for all chunks beforehand and keep.
        first, _ = jax.lax.optimization_barrier((first, query))

        def some(x: Array, axis: int) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, first, chunk, axis)

        some_opened = None if opened is None else some(opened, 1)
        some_biases = [_bias_of(bias, some) for bias in biases]
        return _answers(some(query, 2), key, value, some_biases, prefix, some_opened)

    # The last chunk ends with the queries, and so begins among those of the one before it.
    starts = jnp.append(jnp.arange(0, length - chunk, chunk), length - chunk)
    out = jax.lax.map(answer, starts)
    before = jnp.moveaxis(out[:-1], 0, 2).reshape(*query.shape[:2], -1, query.shape[-1])
    last = out[-1][:, :, before.shape[2] - length :]
    return jnp.concatenate([before, last], axis=2).swapaxes(1, 2)


def _bias_of(bias: Array | ByBucket, some: Callable[[Array, int], Array]) -> Array | ByBucket:
    """A bias of some queries."""
    if isinstance(bias, ByBucket):
        return ByBucket(bias.table, some(bias.buckets, -2))
    return bias if bias.shape[2] == 1 else some(bias, 2)


def _answers(
    query: Float[Array, "B H T K"],
    key: Float[Array, "B H S K"],
    value: Float[Array, "B H S K"],
    biases: Sequence[Bias],
    prefix: dict[str, Array] | None,
    opened: Float[Array, "B T"] | None,
) -> Float[Array, "B H T K"]:
    scores = jnp.einsum("bhtk,bhsk->bhts", query, key, preferred_element_type=jnp.float32)
    virtual = 0
    if prefix is not None:
        asking = query if opened is None else query * opened[:, None, :, None]
        first = prefix_scores(asking, prefix, NEVER)
        virtual = first.shape[-1]
        scores = jnp.concatenate([first, scores], axis=-1)
    for bias in biases:  # Added one by one: their sum would be as large as the scores.
        rows = bias.rows() if isinstance(bias, ByBucket) else bias
        scores = scores + rows
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    out = jnp.einsum("bhts,bhsk->bhtk", weights[..., virtual:], value)
    if prefix is not None:
        answer = prefix_values(weights[..., :virtual], prefix)
        out = out + (answer if opened is None else answer * opened[:, None, :, None])
    return out
