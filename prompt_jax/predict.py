"""Answers to a file of inputs, a line of JSON each, in the order of the inputs.

The output only ever grows, so whatever ends a run leaves a file that the next run continues.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from prompt_jax import disk
from prompt_jax.answers import Answers, Progress, answer, check_words
from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.data.contents import decode_lines
from prompt_jax.data.files import Row, form_of, read_file
from prompt_jax.data.json_rows import whole
from prompt_jax.forward import Injection
from prompt_jax.sharding import whole_rows
from prompt_jax.tasks import Task, to_source
from prompt_jax.tasks.templates import columns_in, path_of

CHUNK = 16  # Batches answered between two writes, among which inputs are sorted by length.
STREAM = "-"
"""In place of a file's name: standard input, or standard output."""
TOLERANCE = 0.01  # In a probability: another device or dtype rounds differently.


class Input(NamedTuple):
    """A text to answer, and its place among all inputs, of whatever shard."""

    index: int
    text: str


def predict(
    backbone: Backbone,
    injection: Injection | None,
    task: Task,
    input_path: str | Path | Sequence[str],
    output_path: str | Path,
    *,
    data: DataConfig,
    eval: EvalConfig,
    shard: tuple[int, int] = (0, 1),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Writes the answers to `output_path` and gives the number of lines that this call added.

    A line has `index`, `input`, `prediction`, and for classification `scores`, the probability of
    every label word. An output that an earlier run left unfinished is continued, after a check
    that it belongs to these inputs and this prompt.

    Args:
      input_path: `-` for standard input, .txt with an input a line, or a file of another form in
        `READERS` with the columns of the task's source template; or a list of the texts themselves.
      output_path: a file, or `-` for standard output, where nothing is continued.
      shard: (i, n) takes every n-th input, beginning with input i.
      overwrite: starts again where there is an output.
      progress: called after every batch with the answered and all inputs of this call.

    Raises:
      InputError: inputs that cannot be read, a shard that does not exist, or an output that is
        complete, cannot be written, or holds other answers.
    """
    inputs = _take(read_inputs(input_path, task), shard)
    check_words(backbone, data, [text for _, text in inputs])
    output = Path(output_path)
    if str(output) != STREAM:
        _check_writable(output, input_path)
    # Every device of a mesh takes an equal share of a batch.
    rows = whole_rows(max(1, min(eval.rows, len(inputs))), backbone.mesh)
    eval = dataclasses.replace(eval, batch_size=rows)
    size = CHUNK * rows
    with _opened(output, inputs, overwrite) as (file, old):
        # Chunks begin where they would without an interruption, and so have the same batches: the
        # answers are the same to the bit, and another prompt shows in those that are there already.
        first = max(len(old) - 1, 0) // size * size
        for start in range(first, len(inputs), size):
            chunk = inputs[start : start + size]
            answers = answer(
                backbone,
                injection,
                [text for _, text in chunk],
                task,
                data=data,
                eval=eval,
                progress=_after(start - first, len(inputs) - first, progress),
            )
            records = _records(chunk, answers)
            earlier = old[start : start + size]
            _check_same(output, start, earlier, records)
            new = records[len(earlier) :]
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in new)
            file.flush()
            # The next run builds on these lines, also after a power cut. A pipe has no disk.
            if file is not sys.stdout:
                os.fsync(file.fileno())
    return len(inputs) - len(old)


def parse_shard(text: str) -> tuple[int, int]:
    """The shard of `i/n`, e.g. `0/4` for the first quarter."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise InputError(f"a shard is written i/n, e.g. 0/4 for the first of four, got {text!r}")
    return int(index), int(count)


def read_inputs(path: str | Path | Sequence[str], task: Task) -> list[Input]:
    """The inputs of a file, of standard input or of a list, the task's source template filled.

    Plain lines, and a column named `input`, fill a template of one column whatever its name.
    """
    columns = columns_in(task.source)
    only = columns[0] if len(set(columns)) == 1 else None
    lone = not isinstance(path, str | Path)
    if not lone and str(path) != STREAM and Path(path).suffix.lower() != ".txt":
        # Of a compressed text, each line is a row of the column `text`.
        name = "text" if form_of(Path(path)) == ".txt" else "input"
        rows = [_with_input(row, only, name) if only else row for row in read_file(Path(path))]
    elif only is None:
        place = "a text by itself" if lone else f"{path}: a line"
        raise InputError(
            f"{place} is one column, and the template {task.source!r} needs the columns "
            f"{', '.join(columns)}; give a .csv, .tsv or .jsonl with them"
        )
    elif lone:
        texts = map(whole, path)  # A terminal gives bytes that are no UTF-8 as halves of letters.
        rows = [Row(f"text {number}", {only: text}) for number, text in enumerate(texts, start=1)]
    else:
        name, content = _read_bytes(path)
        rows = [
            Row(f"{name} line {number}", {only: line})
            for number, line in enumerate(_lines(name, content), start=1)
        ]
    texts = [to_source(task, row.values, row.place) for row in rows]
    return [Input(index, text) for index, text in enumerate(texts)]


def _with_input(row: Row, column: str, name: str) -> Row:
    """A row whose column `name` also goes by that of the template."""
    first = path_of(column, row.values)[0]
    if row.values.get(first) is not None or row.values.get(name) is None:
        return row
    return row._replace(values={**row.values, column: row.values[name]})


def _read_bytes(path: str | Path) -> tuple[str, bytes]:
    if str(path) == STREAM:
        return "standard input", sys.stdin.buffer.read()
    if not Path(path).is_file():
        raise InputError(f"no file {path}; give a file with an input a line, or - for stdin")
    return Path(path).name, Path(path).read_bytes()


def _lines(name: str, content: bytes) -> list[str]:
    lines = decode_lines(name, content)
    if not any(line.strip() for line in lines):
        raise InputError(f"{name} is empty; give at least one line")
    return lines


def _take(inputs: list[Input], shard: tuple[int, int]) -> list[Input]:
    index, count = shard
    if not 0 <= index < count:
        raise InputError(
            f"shard {index}/{count} does not exist; the first of n shards is 0/n and the last "
            "(n-1)/n"
        )
    return inputs[index::count]


def _check_writable(output: Path, input_path: str | Path | Sequence[str]) -> None:
    """Makes the folder of an output, and the output, if they are not there."""
    if output.is_dir():
        raise InputError(f"the output {output} is a folder; name a file in it")
    file = Path(input_path) if isinstance(input_path, str | Path) else None
    if file and str(file) != STREAM and output.resolve() == file.resolve():
        raise InputError(f"{output} is the input too; write the answers to another file")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.open("a").close()
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error}; choose another place") from error


@contextlib.contextmanager
def _opened(
    output: Path, inputs: Sequence[Input], overwrite: bool
) -> Iterator[tuple[IO[str], list[dict[str, Any]]]]:
    """The output, for this process alone, and the records that it holds already."""
    if str(output) == STREAM:
        yield sys.stdout, []
        return
    with disk.writing(output), output.open("a", encoding="utf-8", newline="\n") as file:
        disk.lock(file, output, "wait for its end, or choose another output")
        if overwrite:
            # Only under the lock: another process may be writing to this file.
            file.truncate(0)
        yield file, _resume(output, inputs)


def _resume(output: Path, inputs: Sequence[Input]) -> list[dict[str, Any]]:
    """The records of an unfinished output, after cutting off a line that was half written."""
    content = output.read_bytes() if output.exists() else b""
    # A whole line ends in a newline, so what stands behind the last newline was cut short.
    *lines, half = content.split(b"\n")
    if len(lines) > len(inputs):
        raise _other(output, f"it has {len(lines)} lines for {len(inputs)} inputs")
    records = [_parsed(output, number, line) for number, line in enumerate(lines, start=1)]
    for number, (record, row) in enumerate(zip(records, inputs, strict=False), start=1):
        if (record.get("index"), record.get("input")) != row:
            raise _other(output, f"line {number} does not answer input {row.index}")
    if half:
        # Cut off only what is the beginning of the very next answer; anything else is not ours.
        begins = _beginning(inputs[len(records)]) if len(records) < len(inputs) else b""
        if not begins or half[: len(begins)] != begins[: len(half)]:
            raise _other(output, f"line {len(lines) + 1} does not answer the next input")
        with output.open("r+b") as file:
            file.truncate(len(content) - len(half))
    elif content and len(records) == len(inputs):
        raise InputError(f"{output} is complete; --overwrite answers all inputs again")
    return records


def _beginning(row: Input) -> bytes:
    """How the line of an input begins, up to the answer."""
    start = {"index": row.index, "input": row.text}
    return json.dumps(start, ensure_ascii=False).removesuffix("}").encode()


def _parsed(output: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise _other(output, f"line {number} is no JSON object")
    return record


def _other(output: Path, reason: str) -> InputError:
    return InputError(
        f"{output} holds other answers: {reason}; choose another output, or --overwrite"
    )


def _records(chunk: Sequence[Input], answers: Answers) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [
        {"index": index, "input": text, "prediction": prediction}
        for (index, text), prediction in zip(chunk, answers.predictions, strict=True)
    ]
    if answers.scores is not None and answers.options is not None:
        # The maximum is taken off first so that exp does not overflow.
        odds = np.exp(answers.scores - answers.scores.max(1, keepdims=True))
        shares = np.exp(answers.scores) if answers.apart else odds / odds.sum(1, keepdims=True)
        for record, row, options in zip(records, shares, answers.options, strict=True):
            # A row may have fewer candidates than another.
            record["scores"] = {
                label: round(float(p), 6) for label, p in zip(options, row, strict=False)
            }
    return records


def _check_same(output: Path, start: int, old: list[Any], new: list[Any]) -> None:
    """Refuses to go on with answers that the model of this call would not have given."""
    for number, (before, now) in enumerate(zip(old, new, strict=False), start=start + 1):
        if not _alike(before, now):
            reason = f"line {number} comes from another prompt or other settings"
            raise _other(output, reason)


def _alike(before: dict[str, Any], now: dict[str, Any]) -> bool:
    if "scores" not in now or "scores" not in before:
        return before == now
    old, new = before["scores"], now["scores"]
    return old.keys() == new.keys() and all(abs(old[k] - new[k]) <= TOLERANCE for k in new)


def _after(start: int, total: int, progress: Progress | None) -> Progress | None:
    return progress and (lambda done, _: progress(start + done, total))
