"""How the engine writes an answer."""

import secrets
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from prompt_jax.config import InputError, WritingConfig
from prompt_jax.serve.errors import TooLongError

STOP_IDS = 8
"""Tokens that end an answer beside the model's own, at most."""

TOP = 20
"""Likeliest tokens that are reported at every place of an answer, at most; OpenAI's limit."""


def seeds(seed: int | None, count: int) -> list[int]:
    """Seeds of several answers to one text, from the first one on; None draws new ones."""
    if seed is None:
        return [secrets.randbits(32) for _ in range(count)]
    # Clients have seeds of 64 bits with a sign, and a key is made of 32 bits.
    return [(seed + i) % 2**32 for i in range(count)]


class Likeliest(NamedTuple):
    """The likeliest tokens at every place of answers, the likeliest first."""

    tokens: Int[Array | np.ndarray, "*R U K"]
    log_probs: Float[Array | np.ndarray, "*R U K"]


class Written(NamedTuple):
    """An answer in tokens, or a part of one."""

    tokens: Int[np.ndarray, " U"]
    """With EOS where it ends by itself."""
    log_probs: Float[np.ndarray, " U"]
    """Log-probability of every token, before temperature and cuts."""
    likeliest: Likeliest
    """As many as `top_logprobs` asks for."""
    digest: str
    """The digest of the prompt that wrote it; empty of the plain model."""


class Sampling(NamedTuple):
    """How an answer is written."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    """0 is greedy; above, tokens are drawn from softmax(logits / temperature)."""
    top_k: int = 0
    """Draw among the likeliest so many; 0 is all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that hold so much probability."""
    seed: int = 0
    min_new_tokens: int = 0
    """Tokens before an answer may end."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that a decoder has read or written become less likely."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer beside the model's own."""
    top_logprobs: int = 0
    """How many of the likeliest tokens are reported at every place."""
    stream: Callable[[Written], None] | None = None
    """Called with what is new, from the thread of the engine."""

    def check(self, limit: int, vocabulary: int) -> None:
        """Checks that an answer can be written with these options.

        Args:
          limit: tokens of an answer at most.
          vocabulary: V, the rows of the embedding table.

        Raises:
          TooLongError: more tokens than that.
          InputError: numbers outside of their range.
        """
        WritingConfig(
            max_new_tokens=self.max_new_tokens, min_new_tokens=self.min_new_tokens,
            do_sample=self.temperature > 0, temperature=self.temperature, top_k=self.top_k,
            top_p=self.top_p, repetition_penalty=self.repetition_penalty,
        )  # fmt: skip
        stops = self.stop_token_ids
        if len(stops) > STOP_IDS or not all(0 <= token < vocabulary for token in stops):
            raise InputError(
                f"stop_token_ids are up to {STOP_IDS} tokens, 0 to {vocabulary - 1}, got {stops}"
            )
        if not 0 <= self.top_logprobs <= TOP:
            raise InputError(f"top_logprobs is 0 to {TOP}, got {self.top_logprobs}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be from 0 to {2**32 - 1}, got {self.seed}")
        if self.max_new_tokens > limit:
            raise TooLongError(
                f"max_new_tokens is {self.max_new_tokens} and {limit} is the most; ask for "
                "fewer, or give the engine more"
            )
