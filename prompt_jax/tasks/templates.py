"""Templates: the text of a row's columns, with words around them."""

import difflib
import re
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prompt_jax.config import InputError
from prompt_jax.tasks.text import Text


def _plain(text: str) -> str:
    return re.sub(r"</?b>", "", text.replace("<br>", " "))


# Format specs beside Python's own: `{paragraph:plain}` drops the markup of MultiRC, and
# `{label:fifths}` rounds a score to the nearest 0.2, which makes STS-B's targets words.
_SPECS: dict[str, Callable[[Any], str]] = {
    "plain": _plain,
    "fifths": lambda score: f"{round(float(score) * 5) / 5:.1f}",
}


def parse(template: str) -> list[tuple[str, str | None, str]]:
    """The pieces of a template: words, and the column and format spec behind them.

    Raises:
      InputError: a brace too many or too few.
    """
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"template {template!r}: {error}; a column is written {{column}}, a brace {{{{"
        ) from error
    return [(literal, column, spec or "") for literal, column, spec, _ in pieces]


def fill(template: str, row: Mapping[str, Any], place: str, kind: str) -> Text:
    """The text of a row.

    Args:
      place: where the row stands; begins every error.
      kind: what the text is, `source` or `target`.

    Raises:
      InputError: a column is missing or has no text, or all that the columns hold is empty.
    """
    text, values, columns, words = "", "", [], []
    for literal, column, spec in parse(template):
        text += literal
        if column is not None:
            check_column(column, row, place)
            value = _text(row[column], column, spec, place)
            if isinstance(row[column], list) and not spec:
                words += _words(row[column], len(text))
            columns.append((len(text), len(text) + len(value)))
            text += value
            values += value
    # The words around the columns are no input: "sentence: " of an empty sentence is empty.
    if not values.strip():
        raise InputError(
            f"{place}: empty {kind} (template {template!r}); fill the columns or remove the row"
        )
    return Text(text, place, tuple(columns), tuple(words))


def _words(words: list[str], start: int) -> list[tuple[int, int]]:
    """Where the words of a list stand once they are joined by spaces, from `start` on."""
    places = []
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return places


def _text(value: Any, column: str, spec: str, place: str) -> str:
    if value is None:
        raise InputError(
            f"{place}: column {column!r} has no value, as in a split without labels; "
            "take a split that has them, or remove the row"
        )
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    if not isinstance(value, str | int | float):
        raise InputError(
            f"{place}: column {column!r} holds a {type(value).__name__}; a template takes text, "
            "lists of words and numbers, so write the data to a file with one text a column"
        )
    try:
        return _SPECS[spec](value) if spec in _SPECS else format(value, spec)
    except ValueError as error:
        raise InputError(
            f"{place}: {{{column}:{spec}}} cannot be applied to {value!r}: {error}; allowed: "
            f"Python's format specs, {listing(_SPECS)}"
        ) from error


def check_column(column: str, columns: Iterable[str], place: str) -> None:
    """Checks that a dataset has a column.

    Raises:
      InputError: it has not, with those that it has.
    """
    columns = list(columns)
    if column not in columns:
        near = difflib.get_close_matches(column, columns, n=1)
        hint = f" Perhaps you meant {near[0]!r}?" if near else ""
        raise InputError(f"{place}: no column {column!r}; there are: {listing(columns)}.{hint}")


def listing(names: Iterable[str]) -> str:
    """Names as an error lists them."""
    return ", ".join(names)
