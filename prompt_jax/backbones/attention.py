"""Softmax attention over keys of several kinds: a prefix, a cache, the states themselves."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_jax.backbones import fused
from prompt_jax.backbones.layers import NEVER, Bias, ByBucket, Causal, socket, soft_capped
from prompt_jax.backbones.sockets import (
    adaption_values,
    prefix_masked,
    prefix_scores,
    prefix_values,
)
from prompt_jax.sharding import Grid


class Fresh(NamedTuple):
    """Keys and values that a cache has room for and does not hold yet: those of the queries."""

    key: Float[Array, "B T G K"]
    value: Float[Array, "B T G K"]
    index: Int[Array, "*B"]
    """The place of the first one among the keys of the cache, of all rows or of each."""


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S G K"],
    value: Float[Array, "B S G K"],
    biases: Sequence[Bias],
    prefix: dict[str, Array] | None = None,
    opened: Float[Array, "B T"] | None = None,
    chunk: int | None = None,
    cap: float | None = None,
    fresh: Fresh | None = None,
    kernel: str = "einsum",
    mesh: Grid | None = None,
) -> Float[Array, "B T H K"]:
    """Softmax attention with additive biases; scores and softmax are float32.

    Args:
      key: of G heads, each of which H / G heads of queries share.
      biases: their sum also covers the P keys of the prefix, which stand before all others.
      prefix: a `prefix` socket.
      opened: what its gate multiplies its keys and its values by, for every query.
      chunk: queries that are answered at a time, so that their scores alone are in memory; None
        answers all at once.
      cap: what no score passes, see `soft_capped`.
      fresh: what stands in the place of some of the keys, which are those of a cache.
      kernel: which one of `fused` serves the call where it can; `einsum` is none of them.
      mesh: the devices that the kernel is split over.
    """
    virtual = 0 if prefix is None else prefix["key"].shape[-3]
    if kernel != "einsum" and opened is None and fresh is None:
        run = fused.kernel_of(kernel, query, biases, prefix, cap, mesh)
        if run is not None:
            return run(query, *fused.joined(key, value, prefix), biases, virtual, cap)
    biases = [
        bias.rows(query.shape[1], virtual) if isinstance(bias, Causal) else bias for bias in biases
    ]
    group = query.shape[2] // key.shape[2]
    if group > 1 and query.shape[1] == 1:
        # The keys of a cache are most of what a step reads: to copy them for every head that
        # shares them would take as long as all else. Its queries are those of one head instead.
        heads, width = key.shape[2], query.shape[3]
        gates = None if opened is None else jnp.broadcast_to(opened, (len(query), group))
        query = query.reshape(-1, heads, group, width).swapaxes(1, 2)
        out = attend(query, key, value, biases, prefix, gates, cap=cap, fresh=fresh)
        return out.swapaxes(1, 2).reshape(-1, 1, heads * group, width)

    def shared(heads: Array) -> Array:
        # Queries that share a head of keys stand side by side.
        return heads if group == 1 else jnp.repeat(heads, group, axis=-2)

    if prefix is not None:
        prefix = prefix | {name: shared(prefix[name]) for name in ("key", "value")}
    if fresh is not None:
        latest = [shared(x).swapaxes(1, 2) for x in (fresh.key, fresh.value)]
        fresh = Fresh(latest[0], latest[1], fresh.index)
    # Heads before positions, as both products are batched over B and H.
    query, key, value = (x.swapaxes(1, 2) for x in (query, shared(key), shared(value)))
    if chunk is None or query.shape[2] <= chunk:
        return _answers(query, key, value, biases, prefix, opened, cap, fresh).swapaxes(1, 2)

    def answer(cut: Callable[[Array, int], Array]) -> Float[Array, "B H C K"]:
        gates = None if opened is None else cut(opened, 1)
        rows = [_bias_of(bias, cut) for bias in biases]
        return _answers(cut(query, 2), key, value, rows, prefix, gates, cap, fresh)

    return _in_chunks(answer, query, chunk).swapaxes(1, 2)


def answer_of(
    module: nn.Module,
    query: Float[Array, "B T H K"],
    heads: Float[Array, "B T H K"],
    keys_of: Callable[[Float[Array, "#B P D"]], tuple[Array, Array]],
    output: Callable[[Float[Array, "B T H K"]], Float[Array, "B T D"]],
) -> Float[Array, "B T D"]:
    """What an attention gives: its heads' answers, and those to rows in its `adaption` socket.

    Args:
      module: the attention, where the socket is looked for.
      query: scaled, as it met the keys.
      heads: what `attend` gave.
      keys_of: keys and values of rows, at no position.
      output: the attention's last kernel.
    """
    adaption, answers = socket(module, "adaption") or {}, {}
    for place, leaves in adaption.items():
        rows = leaves["prompt"].astype(heads.dtype)
        rows = rows if rows.ndim == 3 else rows[None]
        answers[place] = adaption_values(query, *keys_of(rows), leaves, NEVER)
    out = output(heads + answers["inside"] if "inside" in answers else heads)
    return out + answers["behind"].reshape(out.shape) if "behind" in answers else out


def _in_chunks(
    answer: Callable[[Callable[[Array, int], Array]], Float[Array, "B H C K"]],
    query: Float[Array, "B H T K"],
    chunk: int,
) -> Float[Array, "B H T K"]:
    """Answers to some queries after the others; `answer` takes what cuts theirs out of an axis."""
    length = query.shape[2]

    # Each chunk's scores are made again for the backward pass, or it would keep them all.
    # `lax.map` is a loop, and nothing is merged across the border of its body.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def answered(first: Int[Array, ""]) -> Float[Array, "B H C K"]:
        # Tied to the queries: what depends on no layer, as biases do, a loop over layers would
        # make for all chunks beforehand and keep.
        first, _ = jax.lax.optimization_barrier((first, query))
        return answer(lambda x, axis: jax.lax.dynamic_slice_in_dim(x, first, chunk, axis))

    # The last chunk ends with the queries, and so begins among those of the one before it.
    starts = jnp.append(jnp.arange(0, length - chunk, chunk), length - chunk)
    # One chunk after the other: a vmap would hold the scores of all of them.
    out = jax.lax.map(answered, starts)
    before = jnp.moveaxis(out[:-1], 0, 2).reshape(*query.shape[:2], -1, query.shape[-1])
    # Of the last chunk, only the queries that the one before it has not answered.
    last = out[-1][:, :, before.shape[2] - length :]
    return jnp.concatenate([before, last], axis=2)


def _bias_of(bias: Array | ByBucket, cut: Callable[[Array, int], Array]) -> Array | ByBucket:
    """A bias of the queries that `cut` takes along an axis."""
    if isinstance(bias, ByBucket):
        return ByBucket(bias.table, cut(bias.buckets, -2))
    return bias if bias.shape[2] == 1 else cut(bias, 2)


def _answers(
    query: Float[Array, "B H T K"],
    key: Float[Array, "B H S K"],
    value: Float[Array, "B H S K"],
    biases: Sequence[Array | ByBucket],
    prefix: dict[str, Array] | None,
    opened: Float[Array, "B T"] | None,
    cap: float | None,
    fresh: Fresh | None,
) -> Float[Array, "B H T K"]:
    # Sums of products in float32 even of bfloat16 states: a softmax magnifies what they round off.
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = product("bhtk,bhsk->bhts", query, key)
    if fresh is not None:
        # Scores are joined and not keys: a cache that is written to is copied, and once for each
        # of the candidates that go on from it.
        scores = _put(scores, product("bhtk,bhsk->bhts", query, fresh.key), fresh.index)
    # Before any mask: capped, what hides a key would no longer hide it.
    scores = soft_capped(scores, cap)
    virtual = 0
    if prefix is not None:
        # A scaled query has the scores of keys scaled for it, and no key is copied for every query.
        asking = query if opened is None else query * opened[:, None, :, None]
        first = prefix_masked(soft_capped(prefix_scores(asking, prefix), cap), prefix, NEVER)
        # Scores are joined and not keys: a prefix of all rows would be copied to each of them.
        virtual = first.shape[-1]
        scores = jnp.concatenate([first, scores], axis=-1)
    for bias in biases:  # Added one by one: their sum would be as large as the scores.
        rows = bias.rows() if isinstance(bias, ByBucket) else bias
        scores = scores + rows
    # In float32, where a thousand small weights still add to one; what they weigh is rounded.
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    shares = weights[..., virtual:]
    if fresh is None:
        out = jnp.einsum("bhts,bhsk->bhtk", shares, value)
    else:
        latest = _cut(shares, fresh.index, fresh.value.shape[2])
        # What the cache holds in their places belongs to nobody.
        shares = _put(shares, jnp.zeros_like(latest), fresh.index)
        out = jnp.einsum("bhts,bhsk->bhtk", shares, value)
        out = out + jnp.einsum("bhts,bhsk->bhtk", latest, fresh.value)
    if prefix is not None:
        answer = prefix_values(weights[..., :virtual], prefix)
        out = out + (answer if opened is None else answer * opened[:, None, :, None])
    return out


def _put(
    scores: Float[Array, "B H T S"], columns: Float[Array, "B H T U"], index: Int[Array, "*B"]
) -> Float[Array, "B H T S"]:
    """Scores with `columns` from `index` on."""
    if not index.ndim:
        return jax.lax.dynamic_update_slice_in_dim(scores, columns, index, axis=-1)
    # Chosen place by place: a scatter by rows would not be fused with what reads the scores.
    width = columns.shape[-1]
    nth = jnp.arange(scores.shape[-1])[None, :] - index[:, None]
    inside = ((nth >= 0) & (nth < width))[:, None, None, :]
    nth = jnp.clip(nth, 0, width - 1)[:, None, None, :]
    return jnp.where(inside, jnp.take_along_axis(columns, nth, axis=-1), scores)


def _cut(
    scores: Float[Array, "B H T S"], index: Int[Array, "*B"], width: int
) -> Float[Array, "B H T U"]:
    """So many columns from `index` on."""
    if not index.ndim:
        return jax.lax.dynamic_slice_in_dim(scores, index, width, axis=-1)
    columns = index[:, None] + jnp.arange(width)[None, :]
    return jnp.take_along_axis(scores, columns[:, None, None, :], axis=-1)
