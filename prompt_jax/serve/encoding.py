"""What callers give, checked and in tokens."""

import functools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Int32, Integer

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.data import encode_labels, pad
from prompt_jax.data.json_rows import whole
from prompt_jax.data.texts import tokenized
from prompt_jax.serve.errors import TooLongError
from prompt_jax.serve.prompts import Served
from prompt_jax.serve.requests import HEADS, CandidateTokens, Kind, Tokens
from prompt_jax.serve.sampling import TOP
from prompt_jax.tasks import Text
from prompt_jax.trees import Tokenizer

TextOrTokens: TypeAlias = str | Sequence[int] | Integer[np.ndarray, " T"]
"""Words, or the tokens of them."""
LABEL_SETS = 1024
"""Sets of label words whose tokens are remembered."""
PIECE = 256
"""Tokens of candidates that a row is read with; of more, they are read in several pieces."""


Pieces: TypeAlias = list[tuple[Int32[np.ndarray, "_ U"], Bool[np.ndarray, "_ U"]]]
"""Tokens of candidates, and where they are real."""


class Inputs:
    """Checks what callers give and makes tokens of it, for one backbone.

    Args:
      lengths: tokens that texts are padded to, growing.
    """

    def __init__(self, backbone: Backbone, lengths: Sequence[int]):
        self._backbone, self._lengths = backbone, tuple(lengths)
        self._fills_masks = backbone.config.is_encoder
        # A client asks for the same label words in request after request.
        self._labels = functools.lru_cache(LABEL_SETS)(self._encode)

    def encode(self, text: TextOrTokens) -> tuple[Tokens, int]:
        """The tokens of a text, and the length that it is padded to.

        Raises:
          TooLongError: more tokens than any of `lengths`.
          InputError: no text, or the backbone has no tokenizer for it.
        """
        if isinstance(text, str):
            words = text if isinstance(text, Text) else whole(text)
            ((text,), _) = tokenized(self._tokenizer("text"), [words])
        tokens = self._checked("a text", text)
        for length in self._lengths:
            # Lengths grow, so the first one that fits is the shortest.
            if len(tokens) <= length:
                return tokens, length
        raise TooLongError(
            f"the text has {len(tokens)} tokens and {self._lengths[-1]} is the most; shorten it, "
            "or give the engine greater lengths"
        )

    def scoring(
        self,
        text: TextOrTokens,
        candidates: Sequence[TextOrTokens],
        length_normalize: bool,
        place: str = "",
    ) -> tuple[Kind, Tokens, list[CandidateTokens]]:
        """The kind of a request for scores, its tokens and its candidates in pieces.

        Args:
          place: of a candidate to its text, see `Served.target_place`; empty is the backbone's.

        Raises:
          TooLongError: more tokens than any of `lengths`.
          InputError: no text, no candidates, or not what a model that fills masks can do.
        """
        labels = all(isinstance(candidate, str) for candidate in candidates)
        encode = self._labels if labels else self._encode
        pieces = encode(tuple(candidates), place)
        tokens, length = self.encode(text)
        if self._fills_masks:
            self._check_cloze(tokens, max(int(real.sum(1).max()) for _, real in pieces))
        kind = _scoring_kind(length, pieces)
        return kind, tokens, [CandidateTokens(*piece, length_normalize) for piece in pieces]

    def reading(self, text: TextOrTokens, top_logprobs: int) -> tuple[Kind, Tokens]:
        """The kind of a request for the log-probabilities of a text, and its tokens.

        Raises:
          InputError: of a model that does not predict what it reads; or as `encode`.
        """
        if self._backbone.target_place != "behind":
            raise InputError(
                f"backbone {self._backbone.name!r} reads a text without predicting it, so the text "
                "has no log-probabilities; leave out echo, or serve a decoder"
            )
        if not 0 <= top_logprobs <= TOP:
            raise InputError(f"top_logprobs is 0 to {TOP}, got {top_logprobs}")
        self._backbone.check_word_head()
        tokens, length = self.encode(text)
        most = self._backbone.config.vocab_size
        return Kind("read", length, min(_step(max(top_logprobs, 1)), most)), tokens

    def kinds_of(self, served: Served) -> list[Kind]:
        """The kinds of requests that a prompt's head or its label words answer: one a length.

        None where label words cannot be scored; a request would get the reason.
        """
        if served.head in HEADS:
            return [Kind(HEADS[served.head], length) for length in self._lengths]
        if not served.labels:
            return []
        try:
            pieces = self._labels(served.labels, served.target_place)
        except InputError:
            return []
        return [_scoring_kind(length, pieces) for length in self._lengths]

    def _encode(self, candidates: tuple[TextOrTokens, ...], place: str) -> Pieces:
        """The tokens of candidates and where they are real, in pieces of about the same size."""
        self._backbone.check_word_head()
        if not candidates:
            raise InputError("there are no candidates; give words, or lists of tokens")
        words = [candidate for candidate in candidates if isinstance(candidate, str)]
        encoded = iter(self._label_tokens(words, place) if words else ())
        rows = [
            self._checked("a candidate", next(encoded) if isinstance(row, str) else row)
            for row in candidates
        ]
        longest = max(map(len, rows))
        # One token is scored as the text is read, with no step of decoding. Others are not padded
        # beyond what a text may have.
        room = 1 if longest == 1 else min(_step(longest), max(longest, self._lengths[-1]))
        padded, real = pad(rows, room, self._backbone.config.filler)
        count = -(-len(rows) // _at_once(room))
        return list(zip(np.array_split(padded, count), np.array_split(real, count), strict=True))

    def _label_tokens(self, words: list[str], place: str) -> list[np.ndarray]:
        tokenizer, place = self._tokenizer("candidate"), place or self._backbone.target_place
        return encode_labels(tokenizer, whole(words), self._lengths[-1], place=place)

    def _tokenizer(self, subject: str) -> Tokenizer:
        if self._backbone.tokenizer is None:
            raise InputError(
                f"backbone {self._backbone.name!r} has no tokenizer; give the tokens of a {subject}"
            )
        return self._backbone.tokenizer

    def _checked(self, subject: str, text: object) -> Tokens:
        tokens, size = np.asarray(text), self._backbone.config.vocab_size
        if tokens.ndim == 1 and not tokens.size:
            raise InputError(f"{subject} has no tokens; give at least one")
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise InputError(f"{subject} is words, or a list of tokens, got {str(text)[:50]!r}")
        if tokens.min() < 0 or tokens.max() >= size:
            raise InputError(
                f"tokens are 0 to {size - 1}, got {tokens.min()} to {tokens.max()} in {subject}"
            )
        return tokens.astype(np.int32)

    def _check_cloze(self, tokens: Tokens, longest: int) -> None:
        masks = int((tokens == self._backbone.config.mask_token_id).sum())
        if masks != 1 or longest > 1:
            raise InputError(
                f"backbone {self._backbone.name!r} fills one mask with one token, got {masks} "
                f"masks and a candidate of {longest} tokens"
            )


def _scoring_kind(length: int, pieces: Pieces) -> Kind:
    """The kind of a request for scores; its first piece is the largest."""
    count, tokens = pieces[0][0].shape
    return Kind("score", length, _step(count), tokens)


def _at_once(tokens: int) -> int:
    """Candidates of so many tokens in a piece: the last of 2, 8, 32, 128 that it has room for.

    Every other batch waits for the one before it, and a row of a hundred long candidates takes as
    long as dozens of rows of two short ones.
    """
    return 2 * 4 ** ((max(2, PIECE // tokens) // 2).bit_length() - 1 >> 1)


def _step(count: int) -> int:
    """The first of 2, 8, 32, 128, ... that is not less.

    Few shapes serve all sets of candidates: on two CPU cores a shape takes seconds to compile.
    """
    return 2 * 4 ** ((count - 1).bit_length() // 2)
