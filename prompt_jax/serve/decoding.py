"""Programs that write a few tokens at a time, so that requests come and go between them.

A board has R places; a request that is admitted gets one and leaves it once its answer has ended.
Every row stands at a step of its own, under its own prompt, and its answer depends on no other.
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
from prompt_jax.generate.rules import ban, lessened
from prompt_jax.generate.sampling import restrict
from prompt_jax.serve.bank import DeviceLeaves, injection_of, rows_of
from prompt_jax.serve.sampling import STOP_IDS, TOP, Likeliest, Sampling


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


# Donated, here and in `write`: a board holds the cache of all rows and must not stand twice.
@functools.partial(jax.jit, static_argnames="room", donate_argnames="board")
def admit(
    model: PromptedModel,
    leaves: DeviceLeaves,
    board: Board,
    places: Int[Array, " A"],
    slots: Int[Array, " A"],
    tokens: Int[Array, "A T"],
    mask: Bool[Array, "A T"],
    draws: Draws,
    *,
    room: int,
) -> Board:
    """Reads A inputs and writes the first token of each.

    Args:
      model: without a prompt.
      places: of the rows on the board; one beyond it is of no row.
      room: U, the tokens that an answer may have.
    """
    prompted = dataclasses.replace(model, injection=rows_of(leaves, slots))
    first = prompted.prefill(tokens, mask, room)
    config, rows = model.module.config, jnp.arange(len(slots))[:, None]
    seen = jnp.zeros((len(slots), config.vocab_size), bool)
    if config.target_place == "behind":
        # `max` and not `set`: padding may repeat the id of a real token, and must not unset it.
        seen = seen.at[rows, tokens].max(mask)
    else:  # A decoder of its own has read its start tokens, and no text.
        seen = seen.at[:, jnp.array(config.start_tokens)].set(True)
    blank = jnp.zeros((len(slots), room))
    admitted = Board(
        slots,
        draws,
        first.mask,
        first.decoder_cache,
        blank.astype(jnp.int32),
        blank,
        none_likeliest(len(slots), room, config),
        jnp.zeros_like(slots),
        jnp.ones(slots.shape, bool),
        seen,
    )
    admitted = _append(admitted, first.logits, config)

    def put(path: jax.tree_util.KeyPath, rows: Array, new: Array) -> Array:
        # Leaves of the cache have L in front of the rows. What stands beyond the board is dropped.
        in_cache = jax.tree_util.keystr(path[:1]) == ".cache"
        at = (slice(None), places) if in_cache else (places,)
        return rows.at[at].set(new.astype(rows.dtype), mode="drop")

    return jax.tree.map_with_path(put, board, admitted)


@functools.partial(jax.jit, static_argnames="tokens", donate_argnames="board")
def write(
    model: PromptedModel,
    leaves: DeviceLeaves,
    board: Board,
    awaited: Bool[Array, " R"],
    *,
    tokens: int,
) -> Board:
    """Writes up to so many tokens of all rows that go on.

    Args:
      awaited: False at rows that nobody waits for any more.
    """
    # Gathered before the loop, since the slots of rows do not change during a burst.
    prompts = {path: leaf[board.slots] for path, leaf in leaves.items()}

    def decode(
        prompt: DeviceLeaves, mask: Array, cache: LayerCache, last: Array, step: Array
    ) -> tuple[Float[Array, " V"], LayerCache]:
        # A batch of one: rows stand at steps of their own, and a model decodes a batch at one.
        cache = jax.tree.map(lambda leaf: leaf[:, None], cache)
        prompted = dataclasses.replace(model, injection=injection_of(prompt))
        logits, cache = prompted.decode(last[None, None], mask[None], cache, step)
        return logits[0, 0], jax.tree.map(lambda leaf: leaf[:, 0], cache)

    def advance(state: tuple[Array, Board]) -> tuple[Array, Board]:
        done, board = state
        # Empty places stand at step 0. They are decoded as if at step 1, and nothing is kept of it.
        at = jnp.maximum(board.step - 1, 0)[:, None]
        last = jnp.take_along_axis(board.tokens, at, axis=1)[:, 0]
        # Leaves of the cache have L in front, so their rows are axis 1.
        by_row = jax.vmap(decode, in_axes=(0, 0, 1, 0, 0), out_axes=(0, 1))
        logits, cache = by_row(prompts, board.mask, board.cache, last, jnp.maximum(board.step, 1))
        board = board._replace(cache=cache)
        return done + 1, _append(board, logits, model.module.config)

    board = board._replace(live=board.live & awaited)
    # Ends early once no row goes on, so that a burst costs no more than its longest answer.
    goes_on = lambda state: (state[0] < tokens) & state[1].live.any()  # noqa: E731
    return jax.lax.while_loop(goes_on, advance, (jnp.int32(0), board))[1]


def _append(board: Board, logits: Float[Array, "R V"], config: ModelConfig) -> Board:
    """The board with one token more in every row that goes on."""
    draws = board.draws
    cut = (draws.top_k < logits.shape[-1]) | (draws.top_p < 1)
    drawn = draws.temperature > 0
    allowed = _ruled(board, logits)

    def draw() -> Int[Array, " R"]:
        # Greedy rows are divided by 1, not by their 0; their draw is not looked at.
        scores = allowed / jnp.where(drawn, draws.temperature, 1.0)[:, None]
        # Cutting sorts the vocabulary, which costs more than a layer of a small model.
        scores = jax.lax.cond(cut.any(), lambda: _restricted(scores, draws), lambda: scores)
        return jax.vmap(_draw)(draws.seed, board.step, scores)

    likeliest = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    # `cond` and not `where`, so that a board of greedy rows alone skips the draw.
    chosen = jax.lax.cond(drawn.any(), draw, lambda: likeliest)
    token = jnp.where(drawn, chosen, likeliest)
    if config.final_token_id is not None:
        token = jnp.where(board.step == draws.limit - 1, config.final_token_id, token)
    # Of the model itself: a caller compares answers that were written under different rules.
    log_prob = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    total = jax.nn.logsumexp(logits, axis=-1)
    log_prob = log_prob - total
    rows, room = jnp.arange(len(token)), board.tokens.shape[1]
    at = jnp.where(board.live, board.step, room)  # What has ended writes beyond the last column.
    step = board.step + board.live

    def tell() -> Likeliest:
        top, tokens = jax.lax.top_k(logits, board.likeliest.tokens.shape[-1])
        new = Likeliest(tokens, top - total[:, None])
        return jax.tree.map(
            lambda leaf, row: leaf.at[rows, at].set(row, mode="drop"), board.likeliest, new
        )

    ended = (token[:, None] == draws.ends).any(1) | (step >= draws.limit)
    return board._replace(
        tokens=board.tokens.at[rows, at].set(token, mode="drop"),
        log_probs=board.log_probs.at[rows, at].set(log_prob, mode="drop"),
        # Boards without such a request skip it: it sorts the vocabulary.
        likeliest=jax.lax.cond((draws.top_logprobs > 0).any(), tell, lambda: board.likeliest),
        step=step,
        live=board.live & ~ended,
        # Rows that have ended are marked too; `admit` replaces theirs before anyone reads it.
        seen=board.seen.at[rows, token].set(True),
    )


def _ruled(board: Board, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
    """What `generate.rules.obey` makes of logits; each row has its own rules, at its own step."""
    draws, penalty = board.draws, board.draws.repetition_penalty
    early = board.step < draws.min_new_tokens
    # Boards without such a request skip both: they go over the whole vocabulary.
    scores = jax.lax.cond(
        (penalty != 1.0).any(),
        lambda: jnp.where(board.seen, lessened(logits, penalty[:, None]), logits),
        lambda: logits,
    )
    return jax.lax.cond(
        early.any(),
        lambda: ban(scores, jnp.asarray(draws.ends), early[:, None]),
        lambda: scores,
    )


def _restricted(scores: Float[Array, "R V"], draws: Draws) -> Float[Array, "R V"]:
    by_row = jax.vmap(lambda row, k, p: restrict(row[None], k, p)[0])
    return by_row(scores, draws.top_k, draws.top_p)


def _draw(
    seed: UInt[Array | np.ndarray, ""], step: Array, scores: Float[Array, " V"]
) -> Int[Array, ""]:
    """A token, drawn as `generate(..., seed=seed)` draws that of its first row."""
    # The key depends on the row's own step and seed, so no neighbour changes what is drawn.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), step)
    return jax.random.categorical(key, scores).astype(jnp.int32)


def empty_board(
    model: PromptedModel, leaves: DeviceLeaves, rows: int, length: int, room: int
) -> Board:
    """A board without a request; its sizes are those of `ContinuousBatch`."""
    config = model.module.config
    draws = draws_of([Sampling()] * rows, config)
    zeros = jnp.zeros(rows, jnp.int32)

    def first(leaves: DeviceLeaves, slots: Array, tokens: Array) -> tuple[Array, LayerCache | None]:
        prompted = dataclasses.replace(model, injection=rows_of(leaves, slots))
        # Only shapes are asked for, so any mask will do.
        prefilled = prompted.prefill(tokens, tokens > 0, room)
        return prefilled.mask, prefilled.cache

    texts = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    # The cache has its shape from the model's own prefill, which no family has to describe twice.
    shapes = jax.eval_shape(first, dict(leaves), zeros, texts)
    mask, cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    blank = jnp.zeros((rows, room))
    return Board(
        zeros,
        jax.tree.map(jnp.asarray, draws),
        mask,
        cache,
        blank.astype(jnp.int32),
        blank,
        none_likeliest(rows, room, config),
        zeros.copy(),  # The board is donated, and a buffer can be given away only once.
        zeros > 0,
        jnp.zeros((rows, config.vocab_size), bool),
    )


def none_likeliest(rows: int, room: int, config: ModelConfig) -> Likeliest:
    """Room for the likeliest tokens of every place."""
    log_probs = jnp.zeros((rows, room, min(TOP, config.vocab_size)))
    return Likeliest(log_probs.astype(jnp.int32), log_probs)


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
