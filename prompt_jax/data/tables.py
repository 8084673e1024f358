"""Rows of a dataset, with the places where they stand."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int

from prompt_jax.tasks import HELD, Record, Series, joined

ArrowTable: TypeAlias = Any
"""A table of pyarrow, which is imported where it is needed."""


class Row(NamedTuple):
    """A row and where it stands, e.g. "train.tsv line 17"."""

    place: str
    values: Record


class Table(Series[Row]):
    """Rows of a dataset.

    Args:
      rows: held as they are, or read whenever they are asked for.

    Attributes:
      remarks: what a run prints about how they were read.
    """

    def __init__(self, rows: Sequence[Row] = (), remarks: Iterable[str] = ()):
        if isinstance(rows, Series):
            super().__init__(rows._read, rows._rows, rows._source)
        else:
            super().__init__(functools.partial(_held, rows), np.arange(len(rows)))
        self.remarks = tuple(remarks)


def _held(items: Sequence[Row], rows: Int[np.ndarray, " N"]) -> list[Row]:
    return [items[i] for i in rows]


def table_of(
    read: Callable[[Int[np.ndarray, " N"]], list[Row]], count: int, source: str = ""
) -> Table:
    """The rows that `read` gives: the objects themselves, or where they are many, on demand."""
    rows = Series(read, np.arange(count), source)
    return Table(rows if count > HELD else list(rows))


def end_to_end(tables: Sequence[Table], limit: int | None) -> Table:
    """The rows of several tables, and the remarks of the first that has some."""
    remarks = next((table.remarks for table in tables if table.remarks), ())
    rows = joined(tables)
    return Table(rows if limit is None else rows[:limit], remarks)


def arrow_rows(
    table: ArrowTable,
    place: Callable[[int], str],
    source: str,
    decode: Callable[[str, list[Any]], list[Any]] = lambda name, cells: cells,
) -> Table:
    """The rows of a table of Arrow.

    Args:
      place: where a row stands, by its number from 0.
      source: a digest of its content.
      decode: the values of cells, by the name of their column.
    """

    def read(rows: Int[np.ndarray, " N"]) -> list[Row]:
        first = int(rows.min())
        # A slice first: `take` copies what it takes from.
        part = table.slice(first, int(rows.max()) - first + 1).take(rows - first)
        names = part.column_names  # Once: a table makes this list whenever it is read.
        columns = [decode(name, _decimal(part[name]).to_pylist()) for name in names]
        return [
            Row(place(number), dict(zip(names, values, strict=True)))
            for number, values in zip(rows.tolist(), zip(*columns, strict=True), strict=True)
        ]

    return table_of(read, len(table), source)


def _decimal(column: ArrowTable) -> ArrowTable:
    """A column, with float32 as the decimal numbers that it stands for: 19.99, not 19.9899998."""
    import pyarrow

    texts = _replaced(column.type, pyarrow.string())
    if texts == column.type:
        return column
    return column.cast(texts).cast(_replaced(column.type, pyarrow.float64()))


def _replaced(kind: ArrowTable, other: ArrowTable) -> ArrowTable:
    """A type of Arrow with another one in place of float32."""
    import pyarrow

    if pyarrow.types.is_float32(kind):
        return other
    if pyarrow.types.is_list(kind):
        return pyarrow.list_(_replaced(kind.value_type, other))
    if pyarrow.types.is_struct(kind):
        fields = (kind.field(i) for i in range(kind.num_fields))
        return pyarrow.struct([(field.name, _replaced(field.type, other)) for field in fields])
    return kind


def class_names(features: Mapping[str, Any], name: str, cells: list[Any]) -> list[Any]:
    """The cells of a column, with names in place of the numbers of class labels.

    Args:
      features: of the columns, as `datasets` writes them.
    """
    feature = features.get(name)
    return cells if feature is None else [_named(cell, feature) for cell in cells]


def _named(value: Any, feature: Any) -> Any:
    """A value with names in place of the numbers of class labels."""
    if value is None or feature is None:
        return value
    if isinstance(feature, list):  # As older versions write a list.
        return [_named(part, feature[0]) for part in value]
    if not isinstance(feature.get("_type"), str):
        return {name: _named(part, feature.get(name)) for name, part in value.items()}
    if feature["_type"] == "ClassLabel":
        # -1 is a label that is kept secret.
        return feature["names"][value] if value >= 0 else None
    inner = feature.get("feature")
    if isinstance(value, list):
        return [_named(part, inner) for part in value]
    if isinstance(value, Mapping) and isinstance(inner, Mapping):  # A list of objects, by column.
        return {name: _named(part, [inner.get(name)]) for name, part in value.items()}
    return value
