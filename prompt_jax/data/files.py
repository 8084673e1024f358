"""Rows of a file the user wrote; every error says the line."""

import csv
import difflib
import io
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from prompt_jax.config import InputError, choose
from prompt_jax.tasks import Record


class Row(NamedTuple):
    """A row and where it stands, e.g. "train.tsv line 17"."""

    place: str
    values: Record


def read_file(path: Path) -> list[Row]:
    """The rows of a tsv, csv, jsonl or parquet file.

    The first line of a tsv or csv names the columns. A tsv has no quotes, as the GLUE files have
    none; a csv has.

    Raises:
      InputError: no such file, an unknown extension, or content that cannot be read.
    """
    if not path.is_file():
        raise InputError(_no_file(path))
    choose("file type", path.suffix.lower(), READERS)
    rows = READERS[path.suffix.lower()](path)
    if not rows:
        raise InputError(f"{path} has no rows; give a file with at least one")
    return rows


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


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    lines = enumerate(decode_lines(str(path), path.read_bytes()), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def _table(path: Path, records: list[tuple[int, list[str]]]) -> list[Row]:
    if not records:
        return []
    header = records[0][1]
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path} line 1: column {name!r} is there twice; rename one")
    rows = []
    for line, fields in records[1:]:
        if len(fields) != len(header):
            raise InputError(
                f"{path} line {line} has {len(fields)} fields, the header has {len(header)} "
                f"({', '.join(header)}); correct the line"
            )
        rows.append(Row(f"{path.name} line {line}", dict(zip(header, fields, strict=True))))
    return rows


def _read_tsv(path: Path) -> list[Row]:
    return _table(path, [(number, line.split("\t")) for number, line in _lines(path)])


def _read_csv(path: Path) -> list[Row]:
    # newline="" leaves line breaks inside quotes to the csv module.
    text = _decode(str(path), path.read_bytes())
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
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
    return _table(path, records)


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    for number, line in _lines(path):
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path} line {number} is not JSON: {error}; write one object a line"
            ) from error
        if not isinstance(values, dict):
            raise InputError(
                f"{path} line {number} holds a {type(values).__name__}; write one object a line, "
                'e.g. {"input": "...", "target": "..."}'
            )
        # Half of an emoji, as cut chats have it, is a text that cannot be written as UTF-8.
        values = whole(values) if "\\ud" in line.lower() else values
        rows.append(Row(f"{path.name} line {number}", values))
    # A key that a row leaves out is an empty cell, as `datasets` reads it.
    columns = dict.fromkeys(column for row in rows for column in row.values)
    return [Row(place, {**dict.fromkeys(columns), **values}) for place, values in rows]


def whole(value: Any) -> Any:
    """A JSON value with U+FFFD for every half of a character, which no tokenizer takes."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [whole(part) for part in value]
    if isinstance(value, dict):
        return {whole(name): whole(part) for name, part in value.items()}
    return value


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as parquet: {error}; write it again") from error
    return [Row(f"{path.name} row {number}", row) for number, row in enumerate(rows, start=1)]


READERS = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
