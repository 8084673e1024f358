"""Texts that end an answer: an automaton that reads tokens, so that a program can stop at them."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from prompt_jax.trees import Tokenizer

STATES = 16
"""Tables have a multiple of so many states, so that few shapes serve all stop strings."""


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of some stop strings begins."""
    places = [place for place in map(text.find, stops) if place >= 0]
    return min(places, default=None)


@functools.lru_cache(maxsize=8)
def stop_table(tokenizer: Tokenizer, stops: tuple[str, ...], size: int) -> Int32[np.ndarray, "S V"]:
    """By state and token, the next state: how much of a stop string the text ends with.

    A row of the table is a state: 0 of a text that ends with no beginning of a stop string, the
    last of one that has had a stop string, from which nothing leads away.

    Args:
      size: V, the rows of the embedding table; those that are no word of the tokenizer have no
        text.
    """
    begun = sorted({stop[:n] for stop in stops for n in range(len(stop))}, key=len)
    letters = {letter: i for i, letter in enumerate(sorted(set("".join(stops))), start=1)}
    end = -(-(len(begun) + 1) // STATES) * STATES - 1
    steps = np.zeros((end + 1, len(letters) + 1), np.int32)
    for state, text in enumerate(begun):
        for letter, column in letters.items():
            longer = text + letter
            if any(longer.endswith(stop) for stop in stops):
                steps[state, column] = end
            else:
                steps[state, column] = max(
                    i for i, beginning in enumerate(begun) if longer.endswith(beginning)
                )
    steps[end] = end
    pieces = pieces_of(tokenizer, size)
    longest = max(map(len, pieces))
    # Column 0 stands for all letters of no stop string; -1 is behind a token's last letter.
    columns = np.full((size, longest), -1, np.int32)
    for i, piece in enumerate(pieces):
        columns[i, : len(piece)] = [letters.get(letter, 0) for letter in piece]
    table = np.tile(np.arange(end + 1, dtype=np.int32)[:, None], (1, size))
    for column in columns.T:
        table = np.where(column < 0, table, steps[table, column])
    return table


@functools.lru_cache(maxsize=8)
def pieces_of(tokenizer: Tokenizer, size: int) -> tuple[str, ...]:
    """The text of every token inside a text; special ones have theirs too."""
    count = min(size, len(tokenizer))
    # The first token of a text may lose its space, so every token is read behind another one.
    first = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    rows = [[first], *([first, i] for i in range(count))]
    if tokenizer.is_fast:
        texts = tokenizer.backend_tokenizer.decode_batch(rows, skip_special_tokens=False)
    else:
        texts = [tokenizer.decode(row) for row in rows]
    before = len(texts[0])
    return (*(text[before:] for text in texts[1:]), *[""] * (size - count))
