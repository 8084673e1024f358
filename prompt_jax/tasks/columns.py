"""Which columns of a file that nobody described are the input, and which is the answer."""

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from prompt_jax.config import InputError, TaskConfig
from prompt_jax.tasks.labels import infer
from prompt_jax.tasks.templates import MARKS, is_empty
from prompt_jax.tasks.text import Record

INPUTS = ("input", "text", "sentence", "question", "prompt", "review", "message", "instruction")
ANSWERS = (
    *("target", "label", "answer", "output", "completion", "response", "category", "class"),
    *("sentiment", "topic", "intent", "summary", "score", "rating"),
)
"""Names that columns of inputs and of answers usually have."""
LOOKED_AT = 1000
"""Rows that the guess is made from."""


class Candidates(NamedTuple):
    """The columns that may be an answer, and those that may be an input, the likeliest alone."""

    answers: list[str]
    inputs: list[str]


def candidates(rows: Sequence[Record], answer: str = "") -> Candidates:
    """What the columns of a file may be; several of a kind where the rows leave it open.

    Args:
      rows: of the file, the first of which has all columns.
      answer: the column of the answer where that is decided.
    """
    rows = rows[:LOOKED_AT]
    cells = {column: [_text(row.get(column)) for row in rows] for column in rows[0]}
    filled = {column: list(filter(None, texts)) for column, texts in cells.items()}
    columns = [column for column, texts in filled.items() if texts]
    labels = [column for column in columns if _is_label(filled[column])]
    texts = [column for column in columns if column not in labels and _is_text(filled[column])]
    usual = [column for column in columns if column.lower() in ANSWERS]
    likely = [column for column in texts if column.lower() in INPUTS]
    clear = likely if len(likely) == 1 else []
    groups = ([column for column in usual if column in labels], usual, labels, texts, columns)
    open_groups = ([column for column in group if column not in clear] for group in groups)
    answers = [answer] if answer else next(filter(None, open_groups), [])
    taken = answers if len(answers) == 1 else []
    inputs = [column for column in texts or columns if column not in taken]
    likely = [column for column in likely if column not in taken]
    return Candidates(answers, likely if len(likely) == 1 else inputs)


def is_decimal(cells: Sequence[object]) -> bool:
    """Whether answers are decimal numbers, of which a regression gives one."""
    texts = list(filter(None, map(_text, cells)))
    numbers = all(re.fullmatch(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", text) for text in texts)
    return numbers and any("." in text for text in texts)


def template(columns: Sequence[str]) -> str:
    """The template of an input: the text of one column, or of several behind their names.

    Raises:
      InputError: a template cannot name one of them.
    """
    for column in columns:
        if set(column) & set(":!{}"):
            raise InputError(
                f"a template cannot name the column {column!r}, for its {MARKS}; rename it in the "
                "file"
            )
    if len(columns) == 1:
        return f"{{{columns[0]}}}"
    return " ".join(f"{column}: {{{column}}}" for column in columns)


def _text(cell: object) -> str:
    kinds = str | int | float | Decimal
    return "" if is_empty(cell) or not isinstance(cell, kinds) else str(cell).strip()


def _is_label(texts: Sequence[str]) -> bool:
    """Whether cells are labels, and no dates."""
    dates = all(re.fullmatch(r"[\d:/.T-]*\d[-/:]\d[\d:/.T -]*Z?", text) for text in texts)
    return bool(infer(Counter(texts), TaskConfig())) and not dates


def _is_text(texts: Sequence[str]) -> bool:
    """Whether cells are texts, and no numbers, dates or identifiers."""
    return sum(bool(re.search(r"[^\W\d_].*\s", text)) for text in texts) * 2 > len(texts)
