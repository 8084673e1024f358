"""A board: the rows that are being written, and how rows come to it from another one.

A request that is admitted gets a place and leaves it once its answer has ended. Boards come in few
sizes. Rows are put on a board of another size where more of them come, longer ones, or where a
smaller one is enough: a step costs what its board holds, whether a place is taken or not.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from prompt_jax.backbones.cache import LayerCache
from prompt_jax.backbones.config import ModelConfig
from prompt_jax.forward import PromptedModel
from prompt_jax.serve.bank import DeviceLeaves, rows_of
from prompt_jax.serve.sampling import STOP_IDS, TOP, Likeliest, Sampling

LEAST_ROOM = 64
"""Tokens that any board has room for in an answer, if an engine's answers may be as long."""


class Size(NamedTuple):
    """What a board has room for."""

    rows: int
    length: int
    """T, tokens of a text."""
    room: int
    """U, tokens of an answer."""

    def holds(self, rows: "Size") -> bool:
        """Whether rows of another size find room."""
        return all(here >= there for here, there in zip(self, rows, strict=True))


def sizes_of(places: int, lengths: Sequence[int], room: int) -> list[Size]:
    """The sizes of an engine's boards, growing: rows are halved from `places` on.

    The longest texts have room for the longest answers, and every shorter length for a quarter.
    """
    counts = [places]
    while counts[0] > 1:
        counts.insert(0, counts[0] // 2)
    rooms = [room]
    for _ in lengths[1:]:
        rooms.insert(0, min(room, max(LEAST_ROOM, rooms[0] // 4)))
    return [Size(rows, *texts) for rows in counts for texts in zip(lengths, rooms, strict=True)]


class Draws(NamedTuple):
    """The `Sampling` of R rows as arrays."""

    limit: Int[Array | np.ndarray, " R"]
    temperature: Float[Array | np.ndarray, " R"]
    top_k: Int[Array | np.ndarray, " R"]
    top_p: Float[Array | np.ndarray, " R"]
    seed: UInt[Array | np.ndarray, " R"]
    ends: Int[Array | np.ndarray, "R E"]
    """Tokens that end an answer; a token beyond the vocabulary fills up."""
    min_new_tokens: Int[Array | np.ndarray, " R"]
    repetition_penalty: Float[Array | np.ndarray, " R"]
    top_logprobs: Int[Array | np.ndarray, " R"]


class Board(NamedTuple):
    """R rows, each at its own step."""

    slots: Int[Array, " R"]
    draws: Draws
    mask: Bool[Array, "R S"]
    """True at real tokens of the input, virtual ones included."""
    cache: LayerCache
    tokens: Int[Array, "R U"]
    log_probs: Float[Array, "R U"]
    """Log-probabilities of the tokens, before temperature and cuts."""
    likeliest: Likeliest
    """The likeliest tokens [R U K], zeros while no row asks for them."""
    step: Int[Array, " R"]
    """Tokens written."""
    live: Bool[Array, " R"]
    """Whether a row goes on."""
    seen: Bool[Array, "R V"]
    """Which tokens a row has read or written, for `repetition_penalty`."""


@functools.partial(jax.jit, static_argnames="size")
def empty(model: PromptedModel, leaves: DeviceLeaves, *, size: Size) -> Board:
    """A board without a row.

    Args:
      leaves: those that stand before a text at least, which take places of the input.
    """
    config, rows = model.module.config, size.rows
    zeros = jnp.zeros(rows, jnp.int32)

    def first(leaves: DeviceLeaves, slots: Array, tokens: Array) -> tuple[Array, LayerCache | None]:
        prompted = dataclasses.replace(model, injection=rows_of(leaves, slots))
        # Only shapes are asked for, so any mask will do.
        prefilled = prompted.prefill(tokens, tokens > 0, size.room)
        return prefilled.mask, prefilled.cache

    texts = jax.ShapeDtypeStruct((rows, size.length), jnp.int32)
    # The cache has its shape from the model's own prefill, which no family has to describe twice.
    shapes = jax.eval_shape(first, dict(leaves), zeros, texts)
    mask, cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    draws = jax.tree.map(jnp.asarray, draws_of([Sampling()] * rows, config))
    return unwritten(zeros, draws, mask, cache, zeros > 0, size.room, config)


def unwritten(
    slots: Int[Array, " R"],
    draws: Draws,
    mask: Bool[Array, "R S"],
    cache: LayerCache,
    live: Bool[Array, " R"],
    room: int,
    config: ModelConfig,
) -> Board:
    """A board whose rows have written nothing."""
    rows = len(slots)
    blank = jnp.zeros((rows, room))
    top = jnp.zeros((rows, room, min(TOP, config.vocab_size)))
    return Board(
        slots=slots,
        draws=draws,
        mask=mask,
        cache=cache,
        tokens=blank.astype(jnp.int32),
        log_probs=blank,
        likeliest=Likeliest(top.astype(jnp.int32), top),
        step=jnp.zeros_like(slots),
        live=live,
        seen=jnp.zeros((rows, config.vocab_size), bool),
    )


# Donated: a board holds the cache of all rows and must not stand twice.
@functools.partial(jax.jit, donate_argnames="board")
def put(board: Board, rows: Board, places: Int[Array, " A"]) -> Board:
    """The board with the rows of another one, which may be longer or shorter.

    Args:
      places: of the rows on the board; one beyond it is of no row.
    """
    rows = _resized(rows, inputs=board.mask.shape[1], room=board.tokens.shape[1])

    def place(path: jax.tree_util.KeyPath, kept: Array, new: Array) -> Array:
        # Leaves of the cache have L in front of the rows. What stands beyond the board is dropped.
        in_cache = jax.tree_util.keystr(path[:1]) == ".cache"
        at = (slice(None), places) if in_cache else (places,)
        return kept.at[at].set(new.astype(kept.dtype), mode="drop")

    return jax.tree.map_with_path(place, board, rows)


def _resized(rows: Board, *, inputs: int, room: int) -> Board:
    """Rows with so many places for an input, and for an answer."""
    before, growth, cache = rows.mask.shape[1], room - rows.tokens.shape[1], rows.cache

    def own(keys: Float[Array, "L R H S K"]) -> Float[Array, "L R H W K"]:
        if cache.cross_key is not None:
            return _columns(keys, keys.shape[3] + growth, 3)
        # Those of the input stand in front. Texts are padded on the right, so that each part is
        # lengthened and cut at its end.
        texts, answers = jnp.split(keys, [before], axis=3)
        parts = [_columns(texts, inputs, 3), _columns(answers, answers.shape[3] + growth, 3)]
        return jnp.concatenate(parts, axis=3)

    def crossed(keys: Float[Array, "L R H S K"] | None) -> Float[Array, "L R H W K"] | None:
        return None if keys is None else _columns(keys, inputs, 3)

    return rows._replace(
        mask=_columns(rows.mask, inputs, 1),
        cache=LayerCache(
            own(cache.key), own(cache.value), crossed(cache.cross_key), crossed(cache.cross_value)
        ),
        tokens=_columns(rows.tokens, room, 1),
        log_probs=_columns(rows.log_probs, room, 1),
        likeliest=jax.tree.map(lambda leaf: _columns(leaf, room, 1), rows.likeliest),
    )


def _columns(x: Array, count: int, axis: int) -> Array:
    """`x` cut along an axis, or with zeros behind it."""
    x = jax.lax.slice_in_dim(x, 0, min(count, x.shape[axis]), axis=axis)
    behind = [(0, 0)] * x.ndim
    behind[axis] = (0, count - x.shape[axis])
    return jnp.pad(x, behind)


def draws_of(rows: Sequence[Sampling], config: ModelConfig) -> Draws:
    """The `Sampling` of several rows as arrays, for a model of this shape."""
    vocabulary, count = config.vocab_size, len(config.eos_token_ids)
    ends = np.full((len(rows), count + STOP_IDS), vocabulary, np.int32)
    ends[:, :count] = config.eos_token_ids
    for line, row in zip(ends, rows, strict=True):
        line[count : count + len(row.stop_token_ids)] = row.stop_token_ids
    return Draws(
        np.array([row.max_new_tokens for row in rows], np.int32),
        np.array([row.temperature for row in rows], np.float32),
        np.array([row.top_k or vocabulary for row in rows], np.int32),
        np.array([row.top_p for row in rows], np.float32),
        np.array([row.seed for row in rows], np.uint32),
        ends,
        np.array([row.min_new_tokens for row in rows], np.int32),
        np.array([row.repetition_penalty for row in rows], np.float32),
        np.array([row.top_logprobs for row in rows], np.int32),
    )
