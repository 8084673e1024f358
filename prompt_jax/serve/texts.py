"""What callers give, checked and in tokens, before it waits for anything."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.data import encode_labels, pad
from prompt_jax.data.files import whole
from prompt_jax.serve.errors import TooLongError
from prompt_jax.serve.queue import Kind
from prompt_jax.serve.reading import Candidates

KEPT = 1024
"""Sets of label words whose tokens are remembered."""


class Texts:
    """Reads what callers give for one backbone.

    Args:
      lengths: tokens that texts are padded to, growing.
    """

    def __init__(self, backbone: Backbone, lengths: Sequence[int]):
        self._backbone, self._lengths = backbone, tuple(lengths)
        # Label words are those of the request before, more often than not.
        self._encoded = functools.lru_cache(KEPT)(self._encode)

    def tokens(self, text: str | Sequence[int]) -> np.ndarray:
        """The tokens [T] of a text.

        Raises:
          InputError: it is none, or the backbone has no tokenizer for it.
        """
        if isinstance(text, str):
            tokenizer = self._tokenizer("text")
            text = tokenizer(whole(text), return_attention_mask=False, verbose=False)["input_ids"]
        return self._checked("a text", text)

    def _checked(self, what: str, given: Any) -> np.ndarray:
        tokens, size = np.asarray(given), self._backbone.config.vocab_size
        if tokens.ndim != 1 or not tokens.size or tokens.dtype.kind not in "iu":
            raise InputError(f"{what} is words, or a list of tokens, got {str(given)[:50]!r}")
        if tokens.min() < 0 or tokens.max() >= size:
            raise InputError(
                f"tokens are 0 to {size - 1}, got {tokens.min()} to {tokens.max()} in {what}"
            )
        return tokens.astype(np.int32)

    def scoring(
        self, text: str | Sequence[int], candidates: Sequence[Any], length_normalize: bool
    ) -> tuple[Kind, np.ndarray, Candidates]:
        """The kind of a request for scores, its tokens and its candidates.

        Raises:
          TooLongError: more tokens than any of `lengths`.
          InputError: no text, no candidates, or not what a model that fills masks can do.
        """
        self._backbone.check_word_head()
        tokens, words = self.tokens(text), self._candidates(candidates)
        if self._backbone.config.is_encoder:
            self._check_cloze(tokens, words)
        kind = _score(self.length(tokens), words)
        padded = pad(words, kind.words, self._backbone.config.filler)
        return kind, tokens, Candidates(*padded, length_normalize)

    def kinds(self, labels: Sequence[str]) -> list[Kind]:
        """The kinds of requests for the scores of label words: one for every length of a text.

        None without a tokenizer, which is what makes tokens of them.
        """
        if self._backbone.tokenizer is None:
            return []
        words = self._candidates(labels)
        return [_score(length, words) for length in self._lengths]

    def length(self, tokens: np.ndarray) -> int:
        """What a text is padded to.

        Raises:
          TooLongError: more tokens than any of `lengths`.
        """
        for length in self._lengths:
            if len(tokens) <= length:
                return length
        raise TooLongError(
            f"the text has {len(tokens)} tokens and {self._lengths[-1]} is the most; shorten it, "
            "or give the engine greater lengths"
        )

    def _tokenizer(self, what: str) -> Any:
        if self._backbone.tokenizer is None:
            raise InputError(
                f"backbone {self._backbone.name!r} has no tokenizer; give the tokens of a {what}"
            )
        return self._backbone.tokenizer

    def _encode(self, words: tuple[str, ...]) -> list[Any]:
        tokenizer, place = self._tokenizer("candidate"), self._backbone.target_place
        return encode_labels(tokenizer, whole(list(words)), self._lengths[-1], place=place)

    def _candidates(self, candidates: Sequence[str | Sequence[int]]) -> list[np.ndarray]:
        if not len(candidates):
            raise InputError("there are no candidates; give words, or lists of tokens")
        words = tuple(word for word in candidates if isinstance(word, str))
        encoded = iter(self._encoded(words) if words else ())
        return [
            self._checked("a candidate", next(encoded) if isinstance(word, str) else word)
            for word in candidates
        ]

    def _check_cloze(self, tokens: np.ndarray, words: list[Any]) -> None:
        masks = int((tokens == self._backbone.config.mask_token_id).sum())
        longest = max(map(len, words))
        if masks != 1 or longest > 1:
            raise InputError(
                f"backbone {self._backbone.name!r} fills one mask with one token, got {masks} "
                f"masks and a candidate of {longest} tokens"
            )


def _score(length: int, words: list[np.ndarray]) -> Kind:
    """Scores of candidates, each padded to the next power of two."""
    return Kind("score", length, _power(len(words)), _power(max(map(len, words))))


def _power(count: int) -> int:
    """The next power of two, so that few shapes serve all sets of candidates."""
    return 1 << (count - 1).bit_length()
