"""Rows of a file the user wrote; every error says the line."""

import csv
import difflib
import functools
import io
import itertools
import json
import re
from pathlib import Path

from prompt_jax.config import InputError, choose
from prompt_jax.data.contents import decode, decode_lines, digest, line_of
from prompt_jax.data.json_rows import read_json
from prompt_jax.data.tables import Row, Table, arrow_rows, class_names
from prompt_jax.tasks import HELD

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Endings behind that of a form, and what pyarrow calls the compression."""
DELIMITERS = (",", ";", "\t", "|")
"""What may stand between the fields of a csv; the comma first."""
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


def _lines(path: Path, content: bytes) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    lines = enumerate(decode_lines(str(path), content), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def _table(path: Path, records: list[tuple[int, list[str]]], content: bytes) -> Table:
    """The rows of records whose first one names the columns; many as columns of Arrow."""
    if not records:
        return Table()
    header = records[0][1]
    _check_names(f"{path} line 1", header)
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
        return arrow_rows(table, line_of(path, lines), digest(content))
    rows = [dict(zip(header, fields, strict=True)) for _, fields in records[1:]]
    return Table([Row(f"{path.name} line {n}", row) for n, row in zip(lines, rows, strict=True)])


def _check_names(place: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{place}: column {name!r} is there twice; rename one")


def _read_tsv(path: Path, content: bytes) -> Table:
    lines = _lines(path, content)
    return _table(path, [(number, line.split("\t")) for number, line in lines], content)


def _read_csv(path: Path, content: bytes) -> Table:
    text = decode(str(path), content)
    # A first line of Excel, which names the delimiter.
    named = re.match(r'"?sep=(.)"?\r?\n', text)
    text = "\n" + text[named.end() :] if named else text  # Every row keeps its line.
    delimiter = named[1] if named else _delimiter(text)
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
        _check_names(str(path), table.column_names)
        metadata = (table.schema.metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(metadata).get("info", {}).get("features", {})
        source = digest(content) if len(table) > HELD else ""
        names = functools.partial(class_names, features)
        return arrow_rows(table, lambda row: f"{path.name} row {row + 1}", source, names)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as {form}: {error}; write it again") from error


READERS = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": read_json,
    ".json": read_json,
    ".parquet": _read_arrow,
    ".arrow": _read_arrow,
    ".txt": _read_txt,
}
