"""Rows of JSON, as people write it: an object a line, objects of several lines, or a list."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from prompt_jax.config import InputError
from prompt_jax.data.contents import decode, decode_lines, digest, line_of
from prompt_jax.data.tables import Row, Table, arrow_rows
from prompt_jax.tasks import HELD, SLICE, uncollected

ArrowArray: TypeAlias = Any
"""An array of pyarrow, which is imported where it is needed."""
BLANK = " \t\r\n"
"""What may stand between values of JSON."""
MARK = "\0"
"""Begins a cell of Arrow that is JSON and no text."""


def read_json(path: Path, content: bytes) -> Table:
    """Objects a line, objects of several lines, or a list of objects."""
    if content.count(b"\n") > HELD:
        table = _lines_of_texts(path, content) or _long_json(path, content)
        if table is not None:
            return table
    rows = []
    for line, values in _json_values(path, decode(str(path), content)):
        if not isinstance(values, dict):
            raise InputError(
                f"{path} line {line} holds a {type(values).__name__}; write one object a line, "
                'e.g. {"input": "...", "target": "..."}'
            )
        rows.append(Row(f"{path.name} line {line}", values))
    # A key that a row leaves out is an empty cell, as `datasets` reads it.
    columns = dict.fromkeys(column for row in rows for column in row.values)
    return Table([Row(place, {**dict.fromkeys(columns), **values}) for place, values in rows])


def _lines_of_texts(path: Path, content: bytes) -> Table | None:
    """Rows whose cells are texts or null, parsed by Arrow in half the time.

    None unless each line is one object, with columns of the first.
    """
    import pyarrow
    import pyarrow.json

    decode(str(path), content)  # Arrow takes bytes that are no text.
    try:
        first = json.loads(content[: content.index(b"\n")].decode("utf-8-sig"))
    except ValueError:
        return None
    if not isinstance(first, dict):
        return None
    schema = pyarrow.schema([(name, pyarrow.large_string()) for name in whole(first)])
    options = {"explicit_schema": schema, "unexpected_field_behavior": "error"}
    try:
        table = pyarrow.json.read_json(
            pyarrow.BufferReader(content), parse_options=pyarrow.json.ParseOptions(**options)
        )
    except pyarrow.ArrowException:  # Other values or columns, or no JSON: told by other readers.
        return None
    if len(table) != content.rstrip().count(b"\n") + 1:
        return None
    return arrow_rows(table, lambda row: f"{path.name} line {row + 1}", digest(content))


def _long_json(path: Path, content: bytes) -> Table | None:
    """Rows as columns of Arrow, parsed once; None unless each line is one object."""
    import pyarrow

    lines = enumerate(decode_lines(str(path), content), start=1)
    filled = ((number, line) for number, line in lines if line.strip())
    halves = b"\\ud" in content or b"\\uD" in content
    numbers: list[int] = []
    columns: dict[str, list[ArrowArray]] = {}
    with uncollected():
        while part := list(itertools.islice(filled, SLICE)):
            try:
                # As one list, in a third of the time of as many calls.
                rows = json.loads(f"[{','.join(line for _, line in part)}]")
            except ValueError:  # Of several lines, or wrong, which the reader of any form tells.
                return None
            if len(rows) != len(part) or not all(isinstance(row, dict) for row in rows):
                return None
            _append(columns, whole(rows) if halves else rows, len(numbers))
            numbers += [number for number, _ in part]
    table = pyarrow.table({name: pyarrow.chunked_array(parts) for name, parts in columns.items()})
    return arrow_rows(table, line_of(path, numbers), digest(content), _parsed)


def _append(columns: dict[str, list[ArrowArray]], rows: list[dict[str, Any]], before: int) -> None:
    """Adds rows to columns of cells, which are null for a key that a row leaves out."""
    import pyarrow

    kind = pyarrow.large_string()
    for name in dict.fromkeys(itertools.chain(columns, *rows)):
        # A column that only now appears has no value in the rows before.
        parts = columns.setdefault(name, [pyarrow.nulls(before, kind)] if before else [])
        cells = [row.get(name) for row in rows]
        if not all(isinstance(cell, str) and cell[:1] != MARK for cell in cells):
            cells = [_cell(cell) for cell in cells]
        parts.append(pyarrow.array(cells, kind))


def _cell(value: Any) -> str | None:
    """A value of JSON as the text of a cell: a text as it is, and of any other its JSON."""
    if value is None or (isinstance(value, str) and not value.startswith(MARK)):
        return value
    return MARK + json.dumps(value)


def _parsed(name: str, cells: list[str | None]) -> list[Any]:
    """The values that `_cell` wrote."""
    return [json.loads(cell[1:]) if cell and cell[0] == MARK else cell for cell in cells]


def _json_values(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The values of a file one by one, those of a list at its top, with their lines."""
    decoder = json.JSONDecoder()
    place, line, counted = _behind(BLANK, text, 0), 1, 0
    between = BLANK
    if text[place : place + 1] == "[":
        place, between = place + 1, BLANK + ","
    while True:
        place = _behind(between, text, place)
        if between != BLANK and text[place : place + 1] == "]":
            place, between = _behind(BLANK, text, place + 1), BLANK
        if place == len(text):
            return
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:  # A number of 5,000 digits, a list in 1,000.
            raise InputError(
                f"{path} line {line} is not JSON: {error}; write one object a line, or a list of "
                "objects"
            ) from error
        # Half of an emoji, as cut chats have it, is a text that cannot be written as UTF-8.
        yield line, whole(value) if "\\ud" in text[counted:place].lower() else value


def _behind(characters: str, text: str, place: int) -> int:
    """The first place from `place` on where none of the characters stands."""
    while text[place : place + 1] and text[place] in characters:
        place += 1
    return place


def whole(value: Any) -> Any:
    """A JSON value with U+FFFD for every half of a character, which no tokenizer takes."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [whole(part) for part in value]
    if isinstance(value, dict):
        return {whole(name): whole(part) for name, part in value.items()}
    return value
