"""One token after the other: the likeliest (greedy), or one drawn from the distribution."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from prompt_jax.backbones.cache import LayerCache
from prompt_jax.backbones.layers import NEVER
from prompt_jax.forward import PromptedModel
from prompt_jax.generate.rules import Rules, obey


class Draw(NamedTuple):
    """How tokens are drawn; every field is traced, so that changing one compiles nothing."""

    key: PRNGKeyArray
    rows: Int[Array, " B"]
    """Identity of every row: its draws depend on it and not on where in a batch it stands."""
    temperature: Float[Array, ""]
    top_k: Int[Array, ""]
    """Keep the likeliest so many; V keeps all."""
    top_p: Float[Array, ""]
    """Keep the smallest set of likeliest tokens that holds so much probability."""


class _State(NamedTuple):
    step: Int[Array, ""]
    tokens: Int[Array, "B U"]
    last: Int[Array, " B"]
    ended: Bool[Array, " B"]
    progress: Int[Array, " B"] | None
    """As `Rules.advance` has it."""
    cache: LayerCache


@functools.partial(jax.jit, static_argnames=("length", "ngram"))
def decode_tokens(
    model: PromptedModel,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    rules: Rules,
    draw: Draw | None,
    *,
    length: int,
    ngram: int = 0,
) -> Int[Array, "B U"]:
    """Up to `length` tokens for every row, stopping when all rows have ended.

    Args:
      draw: None is greedy.
      ngram: as `obey` has it.
    """
    config = model.module.config
    first = model.prefill(tokens, mask, length)
    batch = tokens.shape[0]

    def append(state: _State, logits: Float[Array, "B V"], cache: LayerCache) -> _State:
        logits = obey(rules, ngram, logits, state.tokens, state.step)
        chosen = jnp.argmax(logits, -1) if draw is None else sample(draw, logits, state.step)
        token = jnp.where(state.ended, config.filler, chosen).astype(jnp.int32)
        progress, ended = rules.advance(state.progress, token)
        return _State(
            state.step + 1,
            jax.lax.dynamic_update_index_in_dim(state.tokens, token, state.step, 1),
            token,
            state.ended | ended,
            progress,
            cache,
        )

    def body(state: _State) -> _State:
        last = state.last[:, None]
        # The mask is that of the input: it never changes, and so is no part of the state.
        logits, cache = model.decode(last, first.mask, state.cache, state.step)
        return append(state, logits[:, 0], cache)

    empty = jnp.full((batch, length), config.filler, jnp.int32)
    start = _State(
        jnp.int32(0),
        empty,
        empty[:, 0],
        jnp.zeros(batch, bool),
        rules.begin(batch),
        first.decoder_cache,
    )
    # No scan, which would go on to `length` when all rows have ended.
    state = jax.lax.while_loop(
        lambda s: (s.step < length) & ~s.ended.all(),
        body,
        append(start, first.logits, first.decoder_cache),
    )
    return state.tokens


def sample(draw: Draw, logits: Float[Array, "B V"], step: Int[Array, ""]) -> Int[Array, " B"]:
    """A token for every row, its key folded from the row and the step."""
    restricted = (draw.top_k < logits.shape[-1]) | (draw.top_p < 1)
    kept = jax.lax.cond(
        restricted,
        lambda scores: restrict(scores, draw.top_k, draw.top_p),
        lambda scores: scores,  # Spares the sort.
        # Before the cuts, as in Transformers: a temperature changes which tokens are the nucleus.
        logits / draw.temperature,
    )

    def one(row: Int[Array, ""], scores: Float[Array, " V"]) -> Int[Array, ""]:
        # Folded and not split by the size of the batch, so a row draws the same in any batch.
        key = jax.random.fold_in(jax.random.fold_in(draw.key, row), step)
        return jax.random.categorical(key, scores)

    return jax.vmap(one)(draw.rows, kept)


def restrict(
    logits: Float[Array, "B V"], top_k: Int[Array, ""], top_p: Float[Array, ""]
) -> Float[Array, "B V"]:
    """Logits in which only the k likeliest tokens are left, and of those the nucleus.

    The nucleus (Holtzman et al. 2020) is the smallest set of likeliest tokens that holds `top_p`
    of the probability that the first cut left; the likeliest token always stays.
    """
    descending = -jnp.sort(-logits, axis=-1)
    rank = jnp.arange(logits.shape[-1])[None, :]
    # By rank, as k is traced: that of `lax.top_k` is static, and each would be a program.
    descending = jnp.where(rank < top_k, descending, NEVER)
    probability = jax.nn.softmax(descending, axis=-1)
    # Less itself, as the token that passes `top_p` still belongs to the nucleus.
    before = jnp.cumsum(probability, axis=-1) - probability
    stays = (rank < top_k) & ((before < top_p) | (rank == 0))
    # The cut goes by value, which needs no way back from the sorted order to tokens.
    lowest = jnp.where(stays, descending, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(logits < lowest, NEVER, logits)
