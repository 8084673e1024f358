"""Tokens as words: what each adds to a text, and how likely it was."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from prompt_jax.serve.sampling import Written
from prompt_jax.trees import Tokenizer

CONTEXT = 4
"""Tokens that decide how the next one is spelled: a letter has up to four bytes."""


class Token(NamedTuple):
    """A token of a text, in words."""

    text: str
    """What it adds to the text; its name where it adds nothing, as `</s>`."""
    log_prob: float | None
    """None of the first token of a text, which nothing stands before."""
    likeliest: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens at its place."""
    letters: int = 0
    """How many it adds to the text."""


class Speller:
    """Spells the tokens of one text in their order."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._context: list[int] = []

    def spell(
        self, token: int, log_prob: float | None, likeliest: Sequence[tuple[int, float]]
    ) -> Token:
        """The next token of the text."""
        before = len(self._decoded(self._context))
        words = [(self._named(self._word(before, number), number), p) for number, p in likeliest]
        word = self._word(before, token)
        self._context = [*self._context, token][-CONTEXT:]
        return Token(self._named(word, token), log_prob, tuple(words), len(word))

    def _word(self, before: int, token: int) -> str:
        return self._decoded([*self._context, token])[before:]

    def _named(self, word: str, token: int) -> str:
        return word or self._tokenizer.convert_ids_to_tokens([token])[0]

    def _decoded(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


def spell(tokenizer: Tokenizer, tokens: Sequence[int], read: Written) -> tuple[Token, ...]:
    """The tokens of a text that a model has read."""
    speller = Speller(tokenizer)
    spelled = [speller.spell(tokens[0], None, ())]
    rows = zip(tokens, read.log_probs.tolist(), *read.likeliest, strict=True)
    for token, log_prob, ids, log_probs in itertools.islice(rows, 1, None):
        likeliest = list(zip(ids.tolist(), log_probs.tolist(), strict=True))
        spelled.append(speller.spell(token, log_prob, likeliest))
    return tuple(spelled)
