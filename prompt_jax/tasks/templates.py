"""Templates: the text of a row's columns, with words around them."""

import difflib
import functools
import math
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from prompt_jax.config import InputError
from prompt_jax.tasks.specs import LISTS, SEVERAL, SPECS, items
from prompt_jax.tasks.text import Record, Text

# What stands for `cut` when Python reads a template: its conversions, as !r, are one character.
_MARK = "\1"
MARKS = ": ! { or }"
"""What no name of a column may have that a template is to name."""
_CUT = re.compile(r"((?<!\{)(?:\{\{)*\{[^{}!:]*)!cut(?=[:}])")


class Piece(NamedTuple):
    """Words of a template, and the column behind them."""

    literal: str
    column: str | None
    """None where the template ends in words."""
    spec: str
    cut: bool
    """Whether the template says that a text which is too long loses from this column."""


# Every row of a file asks, and always for the same templates.
@functools.lru_cache(maxsize=256)
def parse(template: str) -> tuple[Piece, ...]:
    """The pieces of a template.

    Raises:
      InputError: a brace too many or too few, or a `!` that is not `!cut`.
    """
    try:
        pieces = list(string.Formatter().parse(_CUT.sub(rf"\1!{_MARK}", template)))
    except ValueError as error:
        raise InputError(
            f"template {template!r}: {error}; a column is written {{column}}, a brace {{{{"
        ) from error
    for _, column, _, mark in pieces:
        if mark not in (None, _MARK):
            raise InputError(
                f"template {template!r}: {{{column}!{mark}}} is unknown; {{{column}!cut}} says "
                "that a text which is too long loses from this column"
            )
    return tuple(
        Piece(words, name, spec or "", mark == _MARK) for words, name, spec, mark in pieces
    )


def columns_in(template: str) -> list[str]:
    """The columns that a template names, in order."""
    return [piece.column for piece in parse(template) if piece.column is not None]


def fill(template: str, row: Record, place: str, kind: str) -> Text:
    """The text of a row.

    Args:
      place: where the row stands; begins every error.
      kind: what the text is, `source` or `target`.

    Raises:
      InputError: a column is missing or has no text, or all that the columns hold is empty.
    """
    text, empty, columns, words, cuts = "", True, [], [], []
    pieces = parse(template)
    for literal, column, spec, cut in pieces:
        text += literal
        if column is None:
            continue
        start = len(text)
        value = reach(row, column, place)
        if spec or not isinstance(value, str):  # As of few cells among a million rows.
            if is_missing(value) and kind == "target":
                raise InputError(
                    f"{place}: column {column!r} has no value, as in a split without labels; "
                    "take a split that has them, remove the row, or leave such rows out by "
                    "--data.skip-unlabelled"
                )
            if isinstance(value, list) and not spec:
                words += _words(list(map(str, value)), start)
            value = _text(value, column, spec, place, row)
        text += value
        # The words around the columns are no input: "sentence: " of an empty sentence is empty.
        empty = empty and not value.strip()
        columns.append((start, len(text)))
        if cut:
            cuts.append(columns[-1])
    if empty:
        raise InputError(
            f"{place}: empty {kind} (template {template!r}); fill the columns or remove the row"
        )
    # Space that the template has at its ends is meant: "Answer: ", or a line break behind a cue.
    filled = Text(text, place, tuple(columns), tuple(words), cuts=tuple(cuts))
    return filled.stripped(left=not pieces[0].literal, right=pieces[-1].column is not None)


def alternatives(template: str, row: Record, place: str) -> list[str]:
    """The right answers of a target such as `{answers:any}`; none of any other template.

    Raises:
      InputError: as `fill`.
    """
    pieces = parse(template)
    column, spec = pieces[0].column, pieces[0].spec
    if not spec or len(pieces) > 1 or column is None or not set(spec.split()) & set(SEVERAL):
        return []
    cell = reach(row, column, place)
    if is_missing(cell) or not items(cell):
        raise InputError(
            f"{place}: column {column!r} has no right answer, as in a split without labels; take a "
            "split that has them, or remove the row"
        )
    texts = [_text([item], column, spec, place, row).strip() for item in items(cell)]
    return list(dict.fromkeys(texts))


def learns_each(template: str) -> bool:
    """Whether a target says that every right answer of a row is learned."""
    return any("each" in piece.spec.split() for piece in parse(template))


def is_missing(cell: Any) -> bool:
    """Whether a column has no value in a row: null, or NaN, which pandas writes for it."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def is_empty(cell: Any) -> bool:
    """Whether a column has no value, or a text of nothing but space."""
    return is_missing(cell) or (isinstance(cell, str) and not cell.strip())


def _words(words: list[str], start: int) -> list[tuple[int, int]]:
    """Where the words of a list stand once they are joined by spaces, from `start` on."""
    places = []
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return places


def _text(value: Any, column: str, spec: str, place: str, row: Record) -> str:
    if is_missing(value):
        return ""
    names = spec.split()
    named = bool(names) and set(names) <= set(SPECS)
    for name in names if named else ():
        value = value if name in LISTS else _joined(value, column, place)
        value = _applied(SPECS[name], value, row, f"{place}: {{{column}:{spec}}}")
    value = _joined(value, column, place)
    return str(value) if named else _applied(format, value, spec, f"{place}: {{{column}:{spec}}}")


def _applied(function: Callable[..., Any], value: Any, argument: str | Record, place: str) -> Any:
    try:
        return function(value, argument)
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(
            f"{place} cannot be applied to {value!r}: {error}; allowed: Python's format specs, "
            f"{listing(SPECS)}"
        ) from error


def _joined(value: Any, column: str, place: str) -> str | int | float | Decimal:
    """A text or a number as it is, and the words of a list."""
    if isinstance(value, list) and all(isinstance(word, str | int) for word in value):
        value = " ".join(map(str, value))
    if not isinstance(value, str | int | float | Decimal):
        path = _path_to_text(value, column)
        inside = f", or reach inside, e.g. {{{path}}}" if path and path != column else ""
        raise InputError(
            f"{place}: column {column!r} holds a {type(value).__name__}; a template takes text, "
            f"numbers and lists of them, so write one text a column{inside}"
        )
    return value


def _path_to_text(value: Any, path: str) -> str:
    """How a template reaches the first text inside a value; empty where there is none."""
    if isinstance(value, str | int | float):
        return path
    parts: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        parts = [(f"{path}.{name}", part) for name, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"{path}[{i}]", part) for i, part in enumerate(value)]
    return next((inner for name, part in parts if (inner := _path_to_text(part, name))), "")


def check_column(column: str, columns: Iterable[str], place: str) -> None:
    """Checks that a dataset has a column, whatever a template reaches for inside it.

    Raises:
      InputError: it has not, with those that it has.
    """
    columns = list(columns)
    _named(path_of(column, columns)[0], columns, place)


def reach(row: Record, column: str, place: str) -> Any:
    """The value of a column, or a value inside it: `translation.en`, `answers[text][0]`.

    Raises:
      InputError: a column, a name or a place of a list that is not there.
    """
    if column in row:
        return row[column]
    first, *steps = path_of(column, row)
    value = row[_named(first, row, place)]
    for step in steps:
        if isinstance(value, Mapping):
            value = value[_named(step, value, f"{place}, column {first!r}", "name")]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif value is None:
            break
        else:
            kind = f"list of {len(value)}" if isinstance(value, list) else type(value).__name__
            raise InputError(
                f"{place}: {{{column}}} reaches for {step!r} in a {kind}; correct the template"
            )
    return value


def path_of(column: str, columns: Iterable[str]) -> list[str]:
    """The column that a template names, and the steps inside it; a whole column name goes first."""
    if column in columns:
        return [column]
    return [step for step in re.split(r"[.\[\]]", column) if step] or [column]


def _named(name: str, names: Iterable[str], place: str, kind: str = "column") -> str:
    """The name as the data write it, who may write an accent as a letter of its own.

    Raises:
      InputError: there is none, with those that there are.
    """
    names = list(names)
    if name in names:
        return name
    for candidate in names:
        if unicodedata.normalize("NFC", candidate) == unicodedata.normalize("NFC", name):
            return candidate
    for candidate in names:
        # Behind such a mark a template has a spec, or `!cut`.
        if candidate.startswith((f"{name}:", f"{name}!")):
            raise InputError(
                f"{place}: a template cannot name the {kind} {candidate!r}, for its {MARKS}; "
                "rename it in the data"
            )
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Perhaps you meant {near[0]!r}?" if near else ""
    raise InputError(f"{place}: no {kind} {name!r}; there are: {listing(names)}.{hint}")


def listing(names: Iterable[str]) -> str:
    """Names as an error lists them."""
    return ", ".join(names)
