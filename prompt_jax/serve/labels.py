"""Answers of prompts that choose among label words: one of them, whole, and never other words."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from prompt_jax.generate.sampling import restrict
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.reader import Classified, Scored


class Choice(NamedTuple):
    """How a label word is chosen: as a token would be, out of as many as there are labels."""

    temperature: float = 0.0
    """0 takes the likeliest."""
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def of(self, scores: Float[np.ndarray, " C"]) -> int:
        """The number of a label word.

        Args:
          scores: log-likelihoods.
        """
        if not self.temperature:
            return int(scores.argmax())
        scaled = jnp.asarray(scores, jnp.float32)[None] / self.temperature
        kept = restrict(scaled, jnp.int32(self.top_k or scaled.shape[1]), jnp.float32(self.top_p))
        return int(jax.random.categorical(jax.random.key(self.seed), kept[0]))


def ask(
    engine: Engine,
    prompt: str | None,
    labels: Sequence[str],
    tokens: Sequence[int],
    timeout: float | None,
) -> "Future[Scored] | Future[Classified]":
    """What `/v1/classify` asks: a head's classes, or the likelihoods of the label words."""
    if prompt is not None and engine.version(prompt).classes:
        return engine.classify(prompt, tokens, timeout=timeout)
    return engine.score(prompt, tokens, labels, timeout=timeout)


def scores_of(answer: Scored | Classified) -> Float[np.ndarray, " C"]:
    """The score of every label word, by a head or by the words themselves."""
    return answer.log_probs if isinstance(answer, Classified) else answer.log_likelihoods
