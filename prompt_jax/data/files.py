"""Rows of a file the user wrote; every error says the line."""

import csv
import difflib
import functools
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from prompt_jax.config import InputError, choose
from prompt_jax.data.tables import Row, Table, arrow_rows, class_names
from prompt_jax.tasks import HELD, SLICE, uncollected

ArrowArray: TypeAlias = Any
"""An array of pyarrow, which is imported where it is needed."""
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Endings behind that of a form, and what pyarrow calls the compression."""
DELIMITERS = (",", ";", "\t", "|")
"""What may stand between the fields of a csv; the comma first."""
BLANK = " \t\r\n"
"""What may stand between values of JSON."""
MARK = "\0"
"""Begins a cell of Arrow that is JSON and no text."""
SNIFFED = 1 << 16
"""Characters of a csv by which its delimiter is known."""


def read_file(path: Path) -> Table:
    """The rows of a file whose form is in `READERS`, which may be compressed.

    The first line of a tsv or csv names the columns. A tsv has no quotes, as the GLUE files have
    none; a csv has. Of a txt every line is a row with the column `text`.

    Raises:
      InputError: no such file, an unknown extension, or content that cannot be read.
    """
    if not path.is_file():
        raise InputError(_no_file(path))
    form = form_of(path)
    choose("file type", form or path.suffix.lower(), READERS)
    table = READERS[form](path, _content(path))
    if not table:
        raise InputError(f"{path} has no rows; give a file with at least one")
    return table


def form_of(path: Path) -> str:
    """The ending of `READERS` that a file has, with or without that of a compression behind it."""
    if path.suffix.lower() in COMPRESSED:
        path = path.with_suffix("")
    ending = path.suffix.lower()
    return ending if ending in READERS else ""


def _content(path: Path) -> bytes:
    """The bytes of a file, without its compression."""
    import pyarrow

    compression = COMPRESSED.get(path.suffix.lower())
    if compression is None:
        return path.read_bytes()
    try:
        with pyarrow.input_stream(str(path), compression=compression) as stream:
            return stream.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as {compression}: {error}; compress it again, or name it "
            "without that ending"
        ) from error


def _no_file(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder; name one file in it"
    if not path.parent.is_dir():
        return f"no file {path}: there is no folder {path.parent}"
    names = [entry.name for entry in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"perhaps you meant {near[0]!r}?" if near else "check the path"
    return f"no file {path}; {hint}"


def decode_lines(name: str, content: bytes) -> list[str]:
    """The lines of a UTF-8 text, empty ones too; Windows line ends and a byte order mark go.

    Raises:
      InputError: a byte that is not UTF-8, with `name` and the line.
    """
    # str.splitlines would also break a text at U+2028 and U+0085.
    lines = _decode(name, content).removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


def _decode(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")  # Spreadsheets begin their csv with a byte order mark.
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name} line {line}: byte 0x{content[error.start]:02x} at offset {error.start} is not "
            "UTF-8; save the file as UTF-8 (e.g. iconv -f latin1 -t utf-8)"
        ) from error


def _lines(path: Path, content: bytes) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    lines = enumerate(decode_lines(str(path), content), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def _table(path: Path, records: list[tuple[int, list[str]]], content: bytes) -> Table:
    """The rows of records whose first one names the columns; many as columns of Arrow."""
    if not records:
        return Table()
    header = records[0][1]
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path} line 1: column {name!r} is there twice; rename one")
    for line, fields in records[1:]:
        if len(fields) != len(header):
            raise InputError(
                f"{path} line {line} has {len(fields)} fields, the header has {len(header)} "
                f"({', '.join(header)}); correct the line"
            )
    lines = [line for line, _ in records[1:]]
    if len(lines) > HELD:
        import pyarrow

        text = pyarrow.large_string()
        columns = [[fields[i] for _, fields in records[1:]] for i in range(len(header))]
        table = pyarrow.table([pyarrow.array(part, text) for part in columns], names=header)
        return arrow_rows(table, _line_of(path, lines), _digest(content))
    rows = [dict(zip(header, fields, strict=True)) for _, fields in records[1:]]
    return Table([Row(f"{path.name} line {n}", row) for n, row in zip(lines, rows, strict=True)])


def _line_of(path: Path, lines: Sequence[int]) -> Callable[[int], str]:
    """Where a row stands, by its number from 0."""
    numbers, name = np.array(lines), path.name
    return lambda row: f"{name} line {numbers.item(row)}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_tsv(path: Path, content: bytes) -> Table:
    lines = _lines(path, content)
    return _table(path, [(number, line.split("\t")) for number, line in lines], content)


def _read_csv(path: Path, content: bytes) -> Table:
    text = _decode(str(path), content)
    delimiter = _delimiter(text)
    # newline="" leaves line breaks inside quotes to the csv module.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records, line = [], 1
    # The module refuses a field of over 131,072 characters; it has one limit for everybody.
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        for fields in reader:
            if fields:
                records.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}: the row that begins at line {line}: {error}") from error
    finally:
        csv.field_size_limit(limit)
    remark = f"{path.name}: its fields are separated by {delimiter!r}, as its header shows"
    table = _table(path, records, content)
    return Table(table, [remark] if delimiter != DELIMITERS[0] else [])


def _delimiter(text: str) -> str:
    """What separates the fields of a csv: a comma, unless the header has none.

    Then it is what gives the most columns, and as many in the rows that follow.
    """
    fields = {}
    for delimiter in DELIMITERS:
        reader = csv.reader(io.StringIO(text[:SNIFFED], newline=""), delimiter=delimiter)
        header, *rows = [len(row) for row in itertools.islice(reader, 20) if row] or [0]
        # The end of the sample may be in the middle of a row.
        if delimiter == DELIMITERS[0] or all(count == header for count in rows[:-1]):
            fields[delimiter] = header
    return DELIMITERS[0] if fields[DELIMITERS[0]] > 1 else max(fields, key=fields.__getitem__)


def _read_json(path: Path, content: bytes) -> Table:
    """Objects a line, objects of several lines, or a list of objects."""
    if content.count(b"\n") > HELD:
        table = _lines_of_texts(path, content) or _long_json(path, content)
        if table is not None:
            return table
    rows = []
    for line, values in _json_values(path, _decode(str(path), content)):
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
    """Rows whose cells are texts or null, parsed by Arrow in a fifth of the time.

    None unless each line is one object, with columns of the first.
    """
    import pyarrow
    import pyarrow.compute
    import pyarrow.json

    _decode(str(path), content)  # Arrow takes bytes that are no text.
    try:
        first = json.loads(content[: content.index(b"\n")].decode("utf-8-sig"))
    except ValueError:
        return None
    if not isinstance(first, dict):
        return None
    schema = pyarrow.schema([(name, pyarrow.large_string()) for name in first])
    options = {"explicit_schema": schema, "unexpected_field_behavior": "error"}
    try:
        table = pyarrow.json.read_json(
            pyarrow.BufferReader(content), parse_options=pyarrow.json.ParseOptions(**options)
        )
    except pyarrow.ArrowException:  # Other values or columns, or no JSON: told by other readers.
        return None
    if len(table) != content.rstrip().count(b"\n") + 1:
        return None
    return arrow_rows(table, lambda row: f"{path.name} line {row + 1}", _digest(content))


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
    return arrow_rows(table, _line_of(path, numbers), _digest(content), _parsed)


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
        except json.JSONDecodeError as error:
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


def _read_txt(path: Path, content: bytes) -> Table:
    lines = [(number, [line]) for number, line in _lines(path, content)]
    return _table(path, [(0, ["text"]), *lines], content)


def _read_arrow(path: Path, content: bytes) -> Table:
    """Parquet, or Arrow as a stream or as a file."""
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    form = form_of(path)[1:]
    buffer = pyarrow.BufferReader(content)
    try:
        if form == "parquet":
            table = pyarrow.parquet.read_table(buffer)
        elif content[:6] == b"ARROW1":
            table = pyarrow.ipc.open_file(buffer).read_all()
        else:
            table = pyarrow.ipc.open_stream(buffer).read_all()
        metadata = (table.schema.metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(metadata).get("info", {}).get("features", {})
        digest = _digest(content) if len(table) > HELD else ""
        names = functools.partial(class_names, features)
        return arrow_rows(table, lambda row: f"{path.name} row {row + 1}", digest, names)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as {form}: {error}; write it again") from error


READERS = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_json,
    ".json": _read_json,
    ".parquet": _read_arrow,
    ".arrow": _read_arrow,
    ".txt": _read_txt,
}
