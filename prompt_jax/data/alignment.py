"""Tags and spans of a text, and the tokens they stand at.

Everything goes by the characters that a token stands for, so the text is tokenized as any other.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from prompt_jax.config import InputError
from prompt_jax.data.texts import kept, trimmed
from prompt_jax.tasks import words_of
from prompt_jax.trees import Tokenizer

IGNORED = -100
"""At a token that has no target."""
NO_SPAN = np.zeros(2, np.int32)
"""The span of a question without an answer: the first token, which is special, as in BERT."""


class Located(NamedTuple):
    """Texts as tokens, and where in the text each token stands."""

    tokens: list[Int[np.ndarray, " T"]]
    places: list[Int[np.ndarray, "T 2"]]
    """First character and the one behind the last; equal for special tokens."""
    cut: int
    """How many texts were cut."""


def locate(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> Located:
    """The tokens of each text, cut as `encode` cuts them, with their places.

    Raises:
      InputError: the tokenizer does not tell places.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"tags and spans need to know where a token stands, and {type(tokenizer).__name__} "
            "does not tell; use a fast tokenizer (a folder with a tokenizer.json)"
        )
    encoded = tokenizer(
        list(texts), return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    pairs = encoded["offset_mapping"]
    left = [kept(*pair, max_length) for pair in zip(texts, pairs, strict=True)]
    places = [
        np.array([trimmed(text, *pair) for pair in row], np.int32).reshape(-1, 2)[keep]
        for text, row, keep in zip(texts, pairs, left, strict=True)
    ]
    rows = [np.asarray(row, np.int32) for row in encoded["input_ids"]]
    tokens = [row[keep] for row, keep in zip(rows, left, strict=True)]
    return Located(tokens, places, sum(len(row) > max_length for row in rows))


def first_tokens(text: str, places: Int[np.ndarray, "T 2"]) -> Int[np.ndarray, " W"]:
    """Where the first token of every word stands, -1 for a word that was cut off.

    Words are those of lists, or what spaces separate. A word is tagged at its first token, as BERT
    does it; an empty one has no token, as one that was cut off.
    """
    words = np.array(words_of(text), np.int32).reshape(-1, 2)
    first = np.full(len(words), -1)
    # Backwards, so that the first token of a word is written last and stays.
    for token in reversed(np.flatnonzero(places[:, 0] < places[:, 1])):
        start = places[token, 0]
        word = np.searchsorted(words[:, 0], start, side="right") - 1
        if word >= 0 and start < words[word, 1]:
            first[word] = token
    return first


def tag_targets(
    text: str, places: Int[np.ndarray, "T 2"], tags: Sequence[int]
) -> Int[np.ndarray, " T"]:
    """The tag of every token, `IGNORED` where a word goes on and at special tokens."""
    first = first_tokens(text, places)
    targets = np.full(len(places), IGNORED, np.int32)
    targets[first[first >= 0]] = np.asarray(tags)[first >= 0]
    return targets


def span_targets(
    places: Int[np.ndarray, "T 2"], start: int, stop: int
) -> Int[np.ndarray, "2"] | None:
    """The first and the last token of the characters `start` to `stop`; None where they were cut.

    A token that reaches beyond them counts too: no token is torn.
    """
    inside = (places[:, 0] < stop) & (places[:, 1] > start) & (places[:, 0] < places[:, 1])
    tokens = np.flatnonzero(inside)
    if not len(tokens) or places[tokens[-1], 1] < stop:
        return None
    return np.array([tokens[0], tokens[-1]], np.int32)
