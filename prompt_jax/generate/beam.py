"""Beam search with Hugging Face's scores: the same beams end, and the same one wins.

A hypothesis is worth its summed log-probabilities divided by length ** length_penalty, where the
length counts the generated tokens and EOS among them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.cache import LayerCache
from prompt_jax.backbones.config import ModelConfig
from prompt_jax.backbones.layers import NEVER
from prompt_jax.forward import Prefilled, PromptedModel
from prompt_jax.generate.rules import Rules, obey


class Lengths(NamedTuple):
    """What a score is divided by, for hypotheses of 1, 2, ... U tokens."""

    ended: Float[Array, " U"]
    """For a hypothesis that has ended."""
    hoped: Float[Array, " U"]
    """For the best that a running one may still become."""


class _Beams(NamedTuple):
    step: Int[Array, ""]
    tokens: Int[Array, "B beams U"]
    scores: Float[Array, "B beams"]
    progress: Int[Array, "B beams"] | None
    """As `Rules.advance` has it."""
    ended: Int[Array, "B beams U"]
    """The best hypotheses that have ended, the very best first."""
    ended_scores: Float[Array, "B beams"]
    has_ended: Bool[Array, "B beams"]
    """False where `ended` is still an empty place."""
    improvable: Bool[Array, " B"]
    """False once no running hypothesis can enter `ended`."""
    exhausted: Bool[Array, ""]
    """True when no hypothesis of any row is left to continue."""


@functools.partial(jax.jit, static_argnames=("length", "beams", "stop_when_full", "ngram"))
def search_beams(
    model: PromptedModel,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    rules: Rules,
    lengths: Lengths,
    *,
    length: int,
    beams: int,
    stop_when_full: bool,
    ngram: int = 0,
) -> Int[Array, "B beams U"]:
    """The hypotheses of every row, the best one first.

    Args:
      ngram: as `obey` has it.
      stop_when_full: a row is decided when `beams` hypotheses have ended, whatever their scores.
    """
    config = model.module.config
    # An input is read once and not by every beam.
    first = _spread(model.prefill(tokens, mask, length), beams)
    extend = functools.partial(_extend, rules.spread(beams), ngram, lengths, stop_when_full)

    def body(carry: tuple[_Beams, LayerCache]) -> tuple[_Beams, LayerCache]:
        state, cache = carry
        last = jnp.take(state.tokens, state.step - 1, axis=2).reshape(-1, 1)
        logits, cache = model.decode(last, first.mask, cache, state.step)
        state, parents = extend(state, logits[:, 0])
        return state, _reorder(cache, parents)

    def running(carry: tuple[_Beams, LayerCache]) -> Bool[Array, ""]:
        state, _ = carry
        full = stop_when_full & state.has_ended.all()
        return (state.step < length) & state.improvable.any() & ~full & ~state.exhausted

    # All beams of a row are alike at first, so the second step needs no reordering.
    start = _start(config, rules, tokens.shape[0], beams, length)
    state, _ = extend(start, first.logits)
    state, _ = jax.lax.while_loop(running, body, (state, first.decoder_cache))
    return state.ended


def _spread(first: Prefilled, beams: int) -> Prefilled:
    """Every row as often as it has beams, one copy beside the other."""
    return Prefilled(
        jnp.repeat(first.logits, beams, axis=0),
        # Along axis 1, as L stands in front.
        jax.tree.map(lambda part: jnp.repeat(part, beams, axis=1), first.cache),
        jnp.repeat(first.mask, beams, axis=0),
    )


def _start(config: ModelConfig, rules: Rules, batch: int, beams: int, length: int) -> _Beams:
    """One live beam a row; the others wait at `NEVER`, or all would walk the same way."""
    empty = jnp.full((batch, beams, length), config.filler, jnp.int32)
    none = jnp.full((batch, beams), NEVER, jnp.float32)
    return _Beams(
        step=jnp.int32(0),
        tokens=empty,
        scores=none.at[:, 0].set(0.0),
        progress=rules.begin(batch, beams),
        ended=empty,
        ended_scores=none,
        has_ended=jnp.zeros((batch, beams), bool),
        improvable=jnp.ones(batch, bool),
        exhausted=jnp.zeros((), bool),
    )


def _extend(
    rules: Rules,
    ngram: int,
    lengths: Lengths,
    stop_when_full: bool,
    state: _Beams,
    logits: Float[Array, "N V"],
) -> tuple[_Beams, Int[Array, "B beams"]]:
    """Every beam a token longer, and the beam that each one grew from.

    Twice as many continuations as beams are looked at, or more where several tokens end an answer:
    should all of the best end here, the others keep the search alive. Only the best, as many as
    beams, may end.
    """
    batch, beams, length = state.tokens.shape
    vocab = logits.shape[-1]
    tried = beams * max(2, 1 + len(rules.ends))
    written = state.tokens.reshape(batch * beams, length)
    # Rules change log-probabilities here and logits elsewhere, as in Transformers.
    grown = obey(rules, ngram, jax.nn.log_softmax(logits), written, state.step)
    grown = grown.reshape(batch, beams, vocab) + state.scores[:, :, None]
    scores, flat = jax.lax.top_k(grown.reshape(batch, beams * vocab), tried)
    parents, token = flat // vocab, (flat % vocab).astype(jnp.int32)
    tokens = _pick(state.tokens, parents)
    tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, state.step, 2)
    progress = None if state.progress is None else _pick(state.progress, parents)
    progress, ends = rules.advance(progress, token)
    # The last token ends them all, so that every hypothesis is compared by its own length.
    ends |= state.step == length - 1

    running_scores, kept = jax.lax.top_k(jnp.where(ends, scores + NEVER, scores), beams)
    closed = ~state.improvable | (stop_when_full & state.has_ended.all(-1))
    may_end = ends & (jnp.arange(tried) < beams)[None, :] & ~closed[:, None]
    values = jnp.where(may_end, scores / lengths.ended[state.step], NEVER)
    ended_scores, best = jax.lax.top_k(jnp.concatenate([state.ended_scores, values], 1), beams)
    has_ended = _pick(jnp.concatenate([state.has_ended, may_end], 1), best)

    worst = jnp.where(has_ended, ended_scores.min(-1, keepdims=True), NEVER)
    # The best one speaks for all: those that run are equally long.
    hoped = running_scores[:, :1] / lengths.hoped[state.step]
    grown_state = _Beams(
        step=state.step + 1,
        tokens=_pick(tokens, kept),
        scores=running_scores,
        progress=None if progress is None else _pick(progress, kept),
        ended=_pick(jnp.concatenate([state.ended, tokens], 1), best),
        ended_scores=ended_scores,
        has_ended=has_ended,
        improvable=state.improvable & (hoped > worst).any(-1),
        exhausted=ends.all(),
    )
    return grown_state, _pick(parents, kept)


def _pick(values: Array, beams: Int[Array, "B picked"]) -> Array:
    """Beams of every row, by their numbers."""
    index = beams.reshape(beams.shape + (1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=1)


def _reorder(cache: LayerCache, parents: Int[Array, "B beams"]) -> LayerCache:
    """The cache of every beam's parent."""
    batch, beams = parents.shape
    rows = (jnp.arange(batch)[:, None] * beams + parents).reshape(-1)
    # Keys of cross-attention are those of the input, alike for all beams of a row, and stay.
    return cache._replace(key=cache.key[:, rows], value=cache.value[:, rows])
