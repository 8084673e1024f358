"""Which tokens an answer may go on with: what Transformers calls logits processors."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.layers import NEVER


class Rules(NamedTuple):
    """What is asked of an answer token by token; every field is traced."""

    ends: Int[Any, " E"]
    """Tokens that end an answer."""
    min_new_tokens: Int[Any, ""]
    """Tokens before the first of those."""
    repetition_penalty: Float[Any, ""] | None = None
    """What the scores of earlier tokens are divided by; None looks at none."""
    read: Int[Any, "B R"] | None = None
    """Tokens before the answer that count as earlier ones; None where no rule looks at them."""
    read_lengths: Int[Any, " B"] | None = None
    """How many of those a row has, from the left."""

    def is_end(self, tokens: Int[Array, "*B"]) -> Bool[Array, "*B"]:
        """Whether each token ends an answer."""
        return jnp.isin(tokens, self.ends)

    def spread(self, beams: int) -> "Rules":
        """The rules of rows that stand so often in a batch, one copy beside the other."""
        if self.read is None:
            return self
        read, lengths = (
            jnp.repeat(jnp.asarray(x), beams, axis=0) for x in (self.read, self.read_lengths)
        )
        return self._replace(read=read, read_lengths=lengths)


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
        history, real = _history(rules, written, step)
        rows = jnp.arange(len(scores))[:, None]
        if rules.repetition_penalty is not None:
            seen = jnp.zeros(scores.shape, bool).at[rows, history].max(real)
            penalty = rules.repetition_penalty
            scores = jnp.where(
                seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores
            )
        if ngram:
            repeats = _repeats(history, real, ngram)
            banned = jnp.zeros(scores.shape, bool)
            banned = banned.at[rows, history[:, ngram - 1 :]].max(repeats)
            scores = jnp.where(banned, NEVER, scores)
    early = step < rules.min_new_tokens
    ends = jnp.zeros(scores.shape[-1], bool).at[rules.ends].set(early)
    return jnp.where(ends[None, :], NEVER, scores)


def _history(
    rules: Rules, written: Int[Array, "B U"], step: Int[Array, ""]
) -> tuple[Int[Array, "B H"], Bool[Array, "B H"]]:
    """Tokens read and written in one row without a gap, H = R + U, and which of them are there."""
    batch, length = written.shape
    lengths = jnp.asarray(rules.read_lengths)[:, None]
    history = jnp.pad(jnp.asarray(rules.read), ((0, 0), (0, length)))
    places = lengths + jnp.arange(length)[None, :]
    history = history.at[jnp.arange(batch)[:, None], places].set(written)
    return history, jnp.arange(history.shape[1])[None, :] < lengths + step


def _repeats(
    history: Int[Array, "B H"], real: Bool[Array, "B H"], ngram: int
) -> Bool[Array, "B W"]:
    """Whether the tokens before the last one of each n-gram are those that the history ends in."""
    windows = history.shape[1] - ngram + 1
    last = real.sum(1, keepdims=True) - (ngram - 1)
    repeats = real[:, ngram - 1 :]
    for place in range(ngram - 1):
        ending = jnp.take_along_axis(history, jnp.maximum(last + place, 0), axis=1)
        repeats &= history[:, place : place + windows] == ending
    return repeats
