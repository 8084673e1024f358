"""Which tokens an answer may go on with: what Transformers calls logits processors."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from prompt_jax.backbones.layers import NEVER

ANY = -1
"""In place of a token: whatever stands there."""


class Rules(NamedTuple):
    """What is asked of an answer token by token; every field is traced, and None costs nothing."""

    ends: Int[Array | np.ndarray, " E"]
    """Tokens that end an answer."""
    min_new_tokens: Int[ArrayLike, ""]
    """Tokens before the first of those."""
    repetition_penalty: Float[ArrayLike, ""] | None = None
    """What the scores of earlier tokens are divided by; None looks at none."""
    bad_words: Int[Array | np.ndarray, "W K"] | None = None
    """Words that are never written, their tokens on the right and `ANY` before them."""
    read: Int[Array | np.ndarray, "B R"] | None = None
    """Tokens before the answer that count as earlier ones; None where no rule looks at them."""
    read_lengths: Int[Array | np.ndarray, " B"] | None = None
    """How many of those a row has, from the left."""
    final: Int[ArrayLike, ""] | None = None
    """The only token that may come at the last place of an answer; None allows any there."""
    stops: Int[Array | np.ndarray, "S V"] | None = None
    """What `stop_table` gives; the last state is the end of an answer."""

    def begin(self, *shape: int) -> Int[Array, "*B"] | None:
        """How far answers without a token are in any stop string."""
        return None if self.stops is None else jnp.zeros(shape, jnp.int32)

    def advance(
        self, progress: Int[Array, "*B"] | None, tokens: Int[Array, "*B"]
    ) -> tuple[Int[Array, "*B"] | None, Bool[Array, "*B"]]:
        """How far answers are in any stop string, and which of them have ended, a token later."""
        ended = jnp.isin(tokens, self.ends)
        if self.stops is None:
            return None, ended
        progress = jnp.asarray(self.stops)[progress, tokens]
        return progress, ended | (progress == len(self.stops) - 1)

    def spread(self, beams: int) -> "Rules":
        """The rules of rows that stand so often in a batch, one copy beside the other."""
        if self.read is None:
            return self
        read, lengths = (
            jnp.repeat(jnp.asarray(x), beams, axis=0) for x in (self.read, self.read_lengths)
        )
        return self._replace(read=read, read_lengths=lengths)


class _History(NamedTuple):
    """Tokens read and written in one row without a gap."""

    tokens: Int[Array, "B H"]
    real: Bool[Array, "B H"]

    def tail(self, count: int) -> Int[Array, "B K"]:
        """The last so many; what no token stands at is no token."""
        places = self.real.sum(1, keepdims=True) + jnp.arange(-count, 0)[None, :]
        tokens = jnp.take_along_axis(self.tokens, jnp.maximum(places, 0), axis=1)
        # Neither a token nor `ANY`, and so equal to nothing.
        return jnp.where(places < 0, ANY - 1, tokens)


def earlier(
    text: Int[np.ndarray, "B T"], mask: Bool[np.ndarray, "B T"]
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, " B"]]:
    """The real tokens of every row on the left, and how many they are."""
    order = np.argsort(~mask, axis=1, kind="stable")
    return np.take_along_axis(text, order, axis=1), mask.sum(1).astype(np.int32)


def obey(
    rules: Rules,
    ngram: int,
    scores: Float[Array, "B V"],
    written: Int[Array, "B U"],
    step: Int[Array, ""],
) -> Float[Array, "B V"]:
    """Scores in which tokens that the rules forbid have no chance.

    Args:
      ngram: as many tokens in a row are never written twice; 0 is no such rule.
      scores: logits, or log-probabilities.
      written: the answer so far, its first `step` tokens.
    """
    if rules.read is not None:
        # The order of what follows is that of the processors of Transformers.
        history = _history(rules, written, step)
        if rules.repetition_penalty is not None:
            scores = penalise(scores, history.tokens, history.real, rules.repetition_penalty)
        if ngram:
            scores = ban(scores, history.tokens[:, ngram - 1 :], _repeats(history, ngram))
        if rules.bad_words is not None:
            scores = _ban_words(scores, history, jnp.asarray(rules.bad_words))
    early = jnp.broadcast_to(step < rules.min_new_tokens, (1, len(rules.ends)))
    scores = ban(scores, jnp.asarray(rules.ends)[None, :], early)
    if rules.final is None:
        return scores
    # Zero, as in Transformers: to a beam's log-probability it adds nothing.
    only = jnp.where(jnp.arange(scores.shape[1]) == rules.final, 0.0, NEVER)
    last = step == written.shape[1] - 1
    return jnp.where(last, jnp.broadcast_to(only, scores.shape), scores)


def penalise(
    scores: Float[Array, "B V"],
    tokens: Int[Array, "B H"],
    real: Bool[Array, "B H"],
    penalty: Float[ArrayLike, ""],
) -> Float[Array, "B V"]:
    """Scores of earlier tokens made less: divided where they are positive, else multiplied."""
    # The maximum, as a token may stand at several places: one that is real is enough.
    seen = jnp.zeros(scores.shape, bool).at[jnp.arange(len(scores))[:, None], tokens].max(real)
    return jnp.where(seen, lessened(scores, penalty), scores)


def lessened(
    scores: Float[Array, "*B V"], penalty: Float[ArrayLike, "..."]
) -> Float[Array, "*B V"]:
    """Scores of tokens that have been seen, as Transformers has them."""
    return jnp.where(scores < 0, scores * penalty, scores / penalty)


def ban(
    scores: Float[Array, "B V"], tokens: Int[Array, "#B N"], when: Bool[Array, "#B #N"]
) -> Float[Array, "B V"]:
    """Scores in which some tokens of every row, or of all rows, have no chance."""
    rows = jnp.arange(len(tokens))[:, None]
    # A token beyond the vocabulary is dropped here, as JAX does; so words are filled up with such.
    banned = jnp.zeros((len(tokens), scores.shape[1]), bool).at[rows, tokens].max(when)
    return jnp.where(banned, NEVER, scores)


def _history(rules: Rules, written: Int[Array, "B U"], step: Int[Array, ""]) -> _History:
    """What stands before the next token, H = R + U."""
    batch, length = written.shape
    lengths = jnp.asarray(rules.read_lengths)[:, None]
    tokens = jnp.pad(jnp.asarray(rules.read), ((0, 0), (0, length)))
    places = lengths + jnp.arange(length)[None, :]
    # Rows differ in length, so each answer is scattered to where its own text ends.
    tokens = tokens.at[jnp.arange(batch)[:, None], places].set(written)
    return _History(tokens, jnp.arange(tokens.shape[1])[None, :] < lengths + step)


def _repeats(history: _History, ngram: int) -> Bool[Array, "B W"]:
    """Whether the tokens before the last one of each n-gram are those that the history ends in."""
    windows = history.tokens.shape[1] - ngram + 1
    ending = history.tail(ngram - 1)
    repeats = history.real[:, ngram - 1 :]
    for place in range(ngram - 1):
        repeats &= history.tokens[:, place : place + windows] == ending[:, place, None]
    return repeats


def _ban_words(
    scores: Float[Array, "B V"], history: _History, words: Int[Array, "W K"]
) -> Float[Array, "B V"]:
    """The last token of a word has no chance where the others stand before it."""
    beginning = words[None, :, :-1]
    same = history.tail(words.shape[1] - 1)[:, None, :] == beginning
    begun = (same | (beginning == ANY)).all(-1)
    return ban(scores, jnp.broadcast_to(words[:, -1], begun.shape), begun)
