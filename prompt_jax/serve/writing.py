"""Answers written a few tokens at a time, so that rows come and go between them.

A board has R places; a row that is admitted gets one and leaves it once its answer has ended. Every
row stands at a step of its own, under its own prompt, and its answer depends on no other.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.cache import LayerCache
from prompt_jax.forward import PromptedModel
from prompt_jax.generate.sampling import restrict
from prompt_jax.serve.bank import injection_of, rows_of
from prompt_jax.serve.reading import Leaves


class How(NamedTuple):
    """How a row is written."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    """0 is greedy; above, tokens are drawn from softmax(logits / temperature)."""
    top_k: int = 0
    """Draw among the likeliest so many; 0 is all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that hold so much probability."""
    seed: int = 0
    stream: Callable[[list[int]], None] | None = None
    """Called with the new tokens, from the thread of the engine."""


class Draws(NamedTuple):
    """`How` of R rows, on the device."""

    limit: Int[Any, " R"]
    temperature: Float[Any, " R"]
    top_k: Int[Any, " R"]
    top_p: Float[Any, " R"]
    seed: Int[Any, " R"]


class Board(NamedTuple):
    """R rows, each at its own step."""

    slots: Int[Array, " R"]
    draws: Draws
    mask: Bool[Array, "R S"]
    """Of the input, virtual tokens included."""
    cache: LayerCache
    tokens: Int[Array, "R U"]
    log_probs: Float[Array, "R U"]
    """Of the tokens, before temperature and cuts."""
    step: Int[Array, " R"]
    """Tokens written."""
    live: Bool[Array, " R"]
    """Whether a row goes on."""


@functools.partial(jax.jit, static_argnames=("module", "room"), donate_argnames="board")
def admit(
    module: Any,
    frozen: Any,
    leaves: Leaves,
    board: Board,
    places: Int[Any, " A"],
    slots: Int[Any, " A"],
    tokens: Int[Any, "A T"],
    mask: Bool[Any, "A T"],
    draws: Draws,
    *,
    room: int,
) -> Board:
    """Reads A inputs and writes the first token of each.

    Args:
      places: of the rows on the board; one beyond it is of no row.
      room: U, the tokens that an answer may have.
    """
    model = PromptedModel(module, frozen, rows_of(leaves, slots))
    first = model.prefill(tokens, mask, room)
    written = jnp.zeros((len(slots), room))
    begun = Board(
        slots,
        draws,
        first.mask,
        first.cache,
        written.astype(jnp.int32),
        written,
        jnp.zeros_like(slots),
        jnp.ones(slots.shape, bool),
    )
    begun = _append(module.config, begun, first.logits)

    def put(path: Any, all_rows: Array, new: Array) -> Array:
        at = (slice(None), places) if _is_cache(path) else (places,)
        return all_rows.at[at].set(new.astype(all_rows.dtype), mode="drop")

    return jax.tree.map_with_path(put, board, begun)


def _is_cache(path: Any) -> bool:
    """Leaves of the cache have L in front of rows."""
    return path[0].name == "cache"


@functools.partial(jax.jit, static_argnames=("module", "tokens"), donate_argnames="board")
def write(
    module: Any, frozen: Any, leaves: Leaves, board: Board, wanted: Bool[Any, " R"], *, tokens: int
) -> Board:
    """Writes up to so many tokens of all rows that go on.

    Args:
      wanted: False at rows that nobody waits for any more.
    """
    own = {path: leaf[board.slots] for path, leaf in leaves.items()}

    def one(leaves: Leaves, mask: Array, cache: LayerCache, last: Array, step: Array) -> Any:
        cache = jax.tree.map(lambda leaf: leaf[:, None], cache)
        model = PromptedModel(module, frozen, injection_of(leaves))
        logits, cache = model.decode(last[None, None], mask[None], cache, step)
        return logits[0, 0], jax.tree.map(lambda leaf: leaf[:, 0], cache)

    def turn(state: tuple[Array, Board]) -> tuple[Array, Board]:
        done, board = state
        at = jnp.maximum(board.step - 1, 0)[:, None]
        last = jnp.take_along_axis(board.tokens, at, axis=1)[:, 0]
        by_row = jax.vmap(one, in_axes=(0, 0, 1, 0, 0), out_axes=(0, 1))
        logits, cache = by_row(own, board.mask, board.cache, last, jnp.maximum(board.step, 1))
        return done + 1, _append(module.config, board._replace(cache=cache), logits)

    board = board._replace(live=board.live & wanted)
    goes_on = lambda state: (state[0] < tokens) & state[1].live.any()  # noqa: E731
    return jax.lax.while_loop(goes_on, turn, (jnp.int32(0), board))[1]


def _append(config: Any, board: Board, logits: Float[Array, "R V"]) -> Board:
    """The board with a token more in every row that goes on."""
    draws = board.draws
    cut = (draws.top_k < logits.shape[-1]) | (draws.top_p < 1)
    drawn = draws.temperature > 0

    def draw() -> Int[Array, " R"]:
        scores = logits / jnp.where(drawn, draws.temperature, 1.0)[:, None]
        scores = jax.lax.cond(cut.any(), lambda: _restricted(scores, draws), lambda: scores)
        return jax.vmap(_draw)(draws.seed, board.step, scores)

    likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    chosen = jax.lax.cond(drawn.any(), draw, lambda: likeliest)
    token = jnp.where(drawn, chosen, likeliest)
    log_prob = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    log_prob = log_prob - jax.nn.logsumexp(logits, axis=-1)
    rows, room = jnp.arange(len(token)), board.tokens.shape[1]
    at = jnp.where(board.live, board.step, room)  # What has ended writes nowhere.
    step = board.step + board.live
    ended = (token == config.eos_token_id) | (step >= draws.limit)
    return board._replace(
        tokens=board.tokens.at[rows, at].set(token, mode="drop"),
        log_probs=board.log_probs.at[rows, at].set(log_prob, mode="drop"),
        step=step,
        live=board.live & ~ended,
    )


def _restricted(scores: Float[Array, "R V"], draws: Draws) -> Float[Array, "R V"]:
    one = lambda row, k, p: restrict(row[None], k, p)[0]  # noqa: E731
    return jax.vmap(one)(scores, draws.top_k, draws.top_p)


def _draw(seed: Array, step: Array, scores: Float[Array, " V"]) -> Int[Array, ""]:
    """As `generate(..., seed=seed)` draws its first row."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), step)
    return jax.random.categorical(key, scores).astype(jnp.int32)


def empty_board(
    module: Any, frozen: Any, leaves: Leaves, rows: int, length: int, room: int
) -> Board:
    """A board without a row.

    Args:
      rows: R.
      length: T, to which inputs are padded.
      room: U, the tokens that an answer may have.
    """
    draws = draws_of([How()] * rows, module.config.vocab_size)
    nothing = jnp.zeros(rows, jnp.int32)

    def first(leaves: Leaves, slots: Array, tokens: Array) -> Any:
        model = PromptedModel(module, frozen, rows_of(leaves, slots))
        filled = model.prefill(tokens, tokens > 0, room)
        return filled.mask, filled.cache

    texts = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    shapes = jax.eval_shape(first, dict(leaves), nothing, texts)
    mask, cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    written = jnp.zeros((rows, room))
    return Board(
        nothing,
        jax.tree.map(jnp.asarray, draws),
        mask,
        cache,
        written.astype(jnp.int32),
        written,
        nothing.copy(),
        nothing > 0,
    )


def draws_of(hows: list[How], vocabulary: int) -> Draws:
    """`How` of several rows as arrays."""
    return Draws(
        np.array([how.max_new_tokens for how in hows], np.int32),
        np.array([how.temperature for how in hows], np.float32),
        np.array([how.top_k or vocabulary for how in hows], np.int32),
        np.array([how.top_p for how in hows], np.float32),
        np.array([how.seed for how in hows], np.uint32),
    )
