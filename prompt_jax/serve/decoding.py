"""Programs that read inputs and write a few tokens at a time, so that requests come and go between.

Every row stands at a step of its own, under its own prompt, and its answer depends on no other.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from prompt_jax.backbones.config import ModelConfig
from prompt_jax.forward import Prefilled, PromptedModel
from prompt_jax.generate.rules import ban, lessened
from prompt_jax.generate.sampling import restrict
from prompt_jax.serve.bank import DeviceLeaves, rows_of
from prompt_jax.serve.board import Board, Draws, unwritten
from prompt_jax.serve.sampling import Likeliest


@jax.jit
def read_prompt(
    model: PromptedModel, leaves: DeviceLeaves, slots: Int[Array | np.ndarray, " A"]
) -> Prefilled:
    """The virtual tokens of A slots, as what is read behind them sees them."""
    return dataclasses.replace(model, injection=rows_of(leaves, slots)).prefill_prompt(len(slots))


@functools.partial(jax.jit, static_argnames="room")
def read(
    model: PromptedModel,
    leaves: DeviceLeaves,
    prompts: Sequence[Prefilled],
    slots: Int[Array, " A"],
    tokens: Int[Array, "A T"],
    mask: Bool[Array, "A T"],
    draws: Draws,
    *,
    room: int,
) -> Board:
    """A board of A rows that have read their inputs and written the first token of each.

    Args:
      model: without a prompt.
      prompts: the virtual tokens of each row, read already; none are read with the texts.
      room: U, the tokens that an answer may have.
    """
    prompted = dataclasses.replace(model, injection=rows_of(leaves, slots))
    first = prompted.prefill(tokens, mask, room, _together(prompts) if prompts else None)
    config, live = model.module.config, jnp.ones(slots.shape, bool)
    board = unwritten(slots, draws, first.mask, first.decoder_cache, live, room, config)
    if config.target_place == "behind":
        rows = jnp.arange(len(slots))[:, None]
        # `max` and not `set`: padding may repeat the id of a real token, and must not unset it.
        seen = board.seen.at[rows, tokens].max(mask)
    else:  # A decoder of its own has read its start tokens, and no text.
        seen = board.seen.at[:, jnp.array(config.start_tokens)].set(True)
    return _append(board._replace(seen=seen), first.logits, config)


def _together(rows: Sequence[Prefilled]) -> Prefilled:
    """Several that are of a row each."""
    caches = [row.decoder_cache for row in rows]
    return Prefilled(
        jnp.concatenate([row.logits for row in rows]),
        # Leaves of a cache have L in front of the rows.
        jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *caches),
        jnp.concatenate([row.mask for row in rows]),
    )


# Donated: a board holds the cache of all rows and must not stand twice.
@functools.partial(jax.jit, donate_argnames="board")
def write(
    model: PromptedModel,
    leaves: DeviceLeaves,
    board: Board,
    awaited: Bool[Array, " R"],
    tokens: Int[Array, ""],
) -> Board:
    """Writes up to so many tokens of all rows that go on.

    Args:
      leaves: what prompts put into the layers. What stands before a text is in the cache.
      awaited: False at rows that nobody waits for any more.
    """
    # Gathered before the loop, since the slots of rows do not change during a burst.
    prompted = dataclasses.replace(model, injection=rows_of(leaves, board.slots))

    def advance(state: tuple[Array, Board]) -> tuple[Array, Board]:
        done, board = state
        # Empty places stand at step 0. They are decoded as if at step 1, and nothing is kept of it.
        step = jnp.maximum(board.step, 1)
        last = jnp.take_along_axis(board.tokens, step[:, None] - 1, axis=1)
        logits, cache = prompted.decode(last, board.mask, board.cache, step)
        return done + 1, _append(board._replace(cache=cache), logits[:, 0], model.module.config)

    board = board._replace(live=board.live & awaited)
    # Ends early once no row goes on, so that a burst costs no more than its longest answer.
    goes_on = lambda state: (state[0] < tokens) & state[1].live.any()  # noqa: E731
    return jax.lax.while_loop(goes_on, advance, (jnp.int32(0), board))[1]


def _append(board: Board, logits: Float[Array, "R V"], config: ModelConfig) -> Board:
    """The board with one token more in every row that goes on."""
    draws = board.draws
    # Of rows that go on alone: what ended rows asked for must cost the others nothing.
    drawn = board.live & (draws.temperature > 0)
    cut = drawn & ((draws.top_k < logits.shape[-1]) | (draws.top_p < 1))
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
        likeliest=jax.lax.cond(
            (board.live & (draws.top_logprobs > 0)).any(), tell, lambda: board.likeliest
        ),
        step=step,
        live=board.live & ~ended,
        # Rows that have ended are marked too; `put` replaces theirs before anyone reads it.
        seen=board.seen.at[rows, token].set(True),
    )


def _ruled(board: Board, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
    """What `generate.rules.obey` makes of logits; each row has its own rules, at its own step."""
    draws, penalty = board.draws, board.draws.repetition_penalty
    early = board.live & (board.step < draws.min_new_tokens)
    # Boards without such a request skip both: they go over the whole vocabulary.
    scores = jax.lax.cond(
        (board.live & (penalty != 1.0)).any(),
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
