"""Many rows are read when they are asked for, and give what the same rows give as objects."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import prompt_jax
from prompt_jax import tasks
from prompt_jax.config import Config, DataConfig, InputError, TaskConfig
from prompt_jax.data import (
    Batches,
    Cache,
    EncodeOptions,
    cache,
    files,
    json_rows,
    load_table,
    tables,
)
from prompt_jax.experiment import splits
from prompt_jax.tasks import Series, joined, taken

ASSETS = Path(prompt_jax.__file__).parent / "assets"
ROWS = [
    {"text": f"{'a rather long text ' * (i % 5)}number {i}", "label": "no" if i % 3 else "yes"}
    for i in range(60)
]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ASSETS / "t5")


@pytest.fixture
def many(monkeypatch):
    """Makes 20 rows many."""

    def patch():
        for module in (tables, files, json_rows, tasks.examples, splits):
            monkeypatch.setattr(module, "HELD", 20)

    monkeypatch.setattr(tasks.series, "SLICE", 7)
    monkeypatch.setattr("prompt_jax.data.tokens.SLICE", 7)
    return patch


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return Config(
        task=TaskConfig(source="say: {text}", target="{label}"),
        data=DataConfig(task=f"file:{path}", cache="off"),
    )


def test_items_are_read_in_slices():
    reads = []

    def read(rows):
        reads.append(len(rows))
        return [f"item {row}" for row in rows]

    series = Series(read, np.arange(5000), "digest")
    assert list(series)[4999] == "item 4999" and max(reads) == tasks.SLICE
    assert series[-1] == "item 4999" and list(series[2:6:2]) == ["item 2", "item 4"]
    assert series.take(np.array([3, 1])).read(np.array([1])) == ["item 1"]
    assert series[:2].digest != series[1:3].digest == series.take(np.array([1, 2])).digest
    upper = series.mapped(str.upper, "upper")
    assert upper[7] == "ITEM 7" and upper.digest != series.digest
    both = joined([series[:3], ["x", "y"], upper[:2]])
    assert list(both) == ["item 0", "item 1", "item 2", "x", "y", "ITEM 0", "ITEM 1"]
    assert both[3] == "x" and both.digest == ""
    assert taken(["a", "b"], np.array([1])) == ["b"]


@pytest.mark.parametrize(
    "options",
    [{}, {"shots": 4}, {"balanced": True}, {"max_examples": 13, "seed": 3}, {"first_rows": 45}],
    ids=str,
)
def test_many_rows_are_what_few_are(tmp_path, many, tokenizer, options):
    config = write(tmp_path / "rows.jsonl", ROWS)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **options))
    few = splits.load_data(config)
    many()
    data = splits.load_data(config)
    assert isinstance(data.train, Series) and not isinstance(few.train, Series)
    assert data.task == few.task
    assert list(data.train) == few.train and list(data.validation) == few.validation
    assert [e.source.place for e in data.train] == [e.source.place for e in few.train]
    assert splits.digest(data.validation) == splits.digest(few.validation)
    pair = [
        Batches(rows.train, tokenizer, DataConfig(max_source_length=9), 4, 0)
        for rows in (few, data)
    ]
    assert pair[0].truncated == pair[1].truncated
    for step in (0, 5, 40):
        for a, b in zip(*(batches[step][:4] for batches in pair), strict=True):
            np.testing.assert_array_equal(a, b)


LINES = {
    "missing and null": '{"a": "x", "b": null}\n{"a": "z"}',
    "a column that comes later": '{"a": "x"}\n{"a": "y", "c": "z"}',
    "a number": '{"a": "x"}\n{"a": 1}',
    "a list": '{"a": "x"}\n{"a": ["y"]}',
    "a date": '{"a": "2020-01-01"}\n{"a": "no"}',
    "a column twice": '{"a": "x", "a": "y"}\n{"a": "z"}',
    "an empty object first": '{}\n{"a": "x"}',
    "a blank line": '{"a": "x"}\n\n{"a": "y"}',
    "ends of Windows": '{"a": "x"}\r\n{"a": "y"}\r\n',
    "a byte order mark": '\ufeff{"a": "x"}\n{"a": "y"}',
    "zeros and pairs": '{"a": "\\u0000x\\ud83d\\ude00"}\n{"a": "\\u0000\\"y\\""}',
    "half a pair": '{"a": "\\ud83d"}\n{"a": "y"}',
    "a line separator": '{"a": "x\u2028y"}\n{"a": "z"}',
    "two objects on a line": '{"a": "x"} {"a": "y"}\n{"a": "z"}',
    "an object on two lines": '{"a":\n"x"}\n{"a": "z"}',
    "a list of objects": '[{"a": "x"},\n{"a": "y"}]',
    "no JSON": '{"a": "x"}\n{"a": "y",}',
}


@pytest.mark.parametrize("text", LINES.values(), ids=LINES)
def test_long_json_is_short_json(tmp_path, monkeypatch, text):
    """Whoever parses it: the rows, their lines, and what is wrong."""
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8", newline="")

    def rows():
        try:
            return list(files.read_file(path))
        except InputError as error:
            return str(error)

    few = rows()
    for module in (tables, json_rows):
        monkeypatch.setattr(module, "HELD", 0)
    assert rows() == few


def test_a_second_start_reads_the_cache(tmp_path, many, tokenizer, monkeypatch):
    many()
    config = write(tmp_path / "rows.jsonl", ROWS)
    kept = dataclasses.replace(config.data, cache=str(tmp_path / "cache"))
    config = dataclasses.replace(config, data=kept)

    def start(config):
        data = splits.load_data(config)
        options = EncodeOptions(tokenizer="digest")
        return data, Batches(data.train, tokenizer, config.data, 4, 0, options=options)

    data, batches = start(config)
    assert "written to" in data.remarks[0] and "written to" in batches.remarks[0]
    fresh = [batches[step] for step in range(20)]
    with monkeypatch.context() as patch:
        patch.setattr(splits, "to_examples", None)
        patch.setattr("prompt_jax.data.texts._cut_slice", None)
        again, batches = start(config)
    assert "read from" in again.remarks[0] and "read from" in batches.remarks[0]
    assert again.task == data.task and list(again.train) == list(data.train)
    for step, batch in enumerate(fresh):
        for a, b in zip(batch[:4], batches[step][:4], strict=True):
            np.testing.assert_array_equal(a, b)
    # Other rows, another length or another template are no such rows.
    write(tmp_path / "rows.jsonl", [*ROWS[:-1], {"text": "changed", "label": "no"}])
    assert "written to" in start(config)[0].remarks[0]
    short = dataclasses.replace(config, data=dataclasses.replace(kept, max_source_length=5))
    data, batches = start(short)
    assert "read from" in data.remarks[0] and "written to" in batches.remarks[0]


def test_a_cache_that_is_damaged_or_cannot_be_written(tmp_path):
    keep = Cache(str(tmp_path))

    def make():
        return {"numbers": np.arange(2000), "none": np.zeros(0, np.int16)}

    keep.arrays("numbers", "abc", make)
    kept = keep.arrays("numbers", "abc", lambda: 1 / 0)
    assert isinstance(kept["numbers"], np.memmap) and kept["none"].shape == (0,)
    (tmp_path / "abc" / "numbers.npy").write_bytes(b"half")
    assert len(keep.arrays("numbers", "abc", make)["numbers"]) == 2000
    assert [path.name for path in tmp_path.iterdir()] == ["abc"]
    (tmp_path / "file").write_text("")
    keep = Cache(str(tmp_path / "file"))
    assert len(keep.arrays("numbers", "abc", make)["numbers"]) == 2000
    assert "warning: numbers not kept" in keep.lines[0] and "--data.cache" in keep.lines[0]
    assert Cache("off").folder is None
    assert cache.Cache(None).folder.parts[-2:] == ("prompt_jax", "rows")


def test_lines_of_long_files(tmp_path, many):
    many()
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    lines[3] = '{"text": "half \\ud83d", "also": 1, "label": "no"}'
    path.write_bytes(("\ufeff" + "\r\n".join([*lines[:5], "", *lines[5:]])).encode())
    table = load_table(f"file:{path}", "train")
    assert len(table) == len(ROWS) and table[5].place == "rows.jsonl line 7"
    assert table[3].values == {"text": "half \ufffd", "label": "no", "also": 1}
    assert table[4].values == {**ROWS[4], "also": None}
    # Several objects a line are read too, and errors name the line.
    path.write_text("\n".join([*lines[:-1], lines[-1] * 2]))
    assert len(load_table(f"file:{path}", "train")) == len(ROWS) + 1
    path.write_text("\n".join([*lines, "{"]))
    with pytest.raises(InputError, match="line 61 is not JSON"):
        load_table(f"file:{path}", "train")
    path.write_text("\n".join([*lines, "[1]"]))
    with pytest.raises(InputError, match="line 61 holds a list"):
        load_table(f"file:{path}", "train")


def test_rows_of_long_files_that_do_not_fit(tmp_path, many):
    many()
    rows = [*ROWS[:30], {"text": "", "label": "no"}, *ROWS[30:], {"text": None, "label": "no"}]
    with pytest.raises(InputError, match=r"(?s)line 31: empty source.*2 of 62 rows") as caught:
        splits.load_data(write(tmp_path / "rows.jsonl", rows))
    assert "line 62: empty source" in str(caught.value)


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "txt"])
def test_many_rows_of_other_forms(tmp_path, many, form):
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    path, columns = tmp_path / f"rows.{form}", pyarrow.Table.from_pylist(ROWS)
    if form == "parquet":
        pyarrow.parquet.write_table(columns, path)
    elif form == "csv":
        pyarrow.csv.write_csv(columns, path)
    else:
        lines = ["text\tlabel", "", *("\t".join(row.values()) for row in ROWS)]
        path.write_text("\n".join(lines))
    few = load_table(f"file:{path}", "train")
    many()
    table = load_table(f"file:{path}", "train")
    assert list(table) == list(few) and table.digest and not few.digest
    places = np.array([50, 3, 3, 59])
    assert table.read(places) == [few[int(i)] for i in places]
