"""Rows from files of every kind; every one that cannot be read says why."""

import csv
import gzip
import json
import re

import pytest

from prompt_jax.config import Config, DataConfig, InputError
from prompt_jax.data import load_rows, load_table, splits
from prompt_jax.experiment import load_data

ROWS = [{"input": 'a "b", c', "target": "x"}, {"input": "é\u2028", "target": "y"}]


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl", "parquet"])
def test_files_of_every_kind(ending, tmp_path):
    import pandas

    path = tmp_path / f"rows.{ending}"
    if ending == "tsv":
        path.write_text('input\ttarget\na "b", c\tx\n\né\u2028\ty\r\n', "utf-8", newline="")
    elif ending == "csv":
        pandas.DataFrame(ROWS).to_csv(path, index=False, encoding="utf-8-sig")
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        pandas.DataFrame(ROWS).to_parquet(path)
    assert load_rows(f"file:{path}", "train") == ROWS
    assert load_rows(f"file:{path}", "test", limit=1) == ROWS[:1]
    assert splits(f"file:{path}") == ["train"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "a.tsv",
            b"input\ttarget\nx\ty\ncaf\xe9\tz\n",
            "line 3: byte 0xe9 at offset 20 is not UTF-8",
        ),
        ("a.tsv", b"", "has no rows"),
        ("a.csv", b"input,target\n", "has no rows"),
        ("a.jsonl", b"\n", "has no rows"),
        (
            "a.tsv",
            b"input\ttarget\nx\ty\n\nx\n",
            "line 4 has 1 fields, the header has 2 .input, target",
        ),
        ("a.csv", b'input,target\n"a\nb",c\nd\n', "line 4 has 1 fields, the header has 2"),
        ("a.csv", b'input,target\na,b\n"a,b\n', "row that begins at line 3: unexpected end"),
        ("a.tsv", b"input\tinput\nx\ty\n", "line 1: column 'input' is there twice"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not JSON.*one object a line"),
        ("a.jsonl", b'{"a": 1}\n["a"]\n', "line 2 holds a list; write one object a line"),
        ("a.parquet", b"PAR1 and then nothing", "cannot be read as parquet"),
        ("a.json", b'[\n{"a": 1},\n{"a": }]', "line 3 is not JSON.*or a list of objects"),
        ("a.json", b'{"a": 1}\n]', "line 2 is not JSON"),
        ("a.json", b'[["a"]]', "line 1 holds a list; write one object a line"),
        ("a.jsnl", b"{}", "unknown file type '.jsnl'; allowed: .tsv.*Perhaps you meant '.jsonl'"),
        ("a.gz", b"{}", "unknown file type '.gz'; allowed: .tsv"),
        ("a.csv.gz", b"a,b\n1,2\n", "a.csv.gz cannot be read as gzip.*without that ending"),
        ("a.arrow", b"ARROW1 and then nothing", "cannot be read as arrow"),
        ("a.csv", "a,b\n1,é\n".encode("utf-16"), "is UTF-16, as Excel's Unicode text is"),
        ("a.jsonl", b'{"a": %s}' % (b"1" * 5000), "line 1 is not JSON: Exceeds the limit"),
        ("a.jsonl", b'{"a": %s' % (b"[" * 100_000), "line 1 is not JSON: maximum recursion"),
    ],
)
def test_files_that_cannot_be_read(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_rows(f"file:{tmp_path / name}", "train")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("trian.tsv", "no file .*trian.tsv; perhaps you meant 'train.tsv'"),
        ("zzz", "no file .*zzz; check the path"),
        ("nowhere/train.tsv", "there is no folder .*nowhere"),
        ("empty", "has no file of rows; name files of one form"),
        ("mixed", "holds .csv and .jsonl files; name files of one form, e.g. file:.*mixed/train-"),
        ("*.csv", "no file is called .*csv; check the folder and the pattern"),
    ],
)
def test_files_that_are_not_there(path, message, tmp_path):
    (tmp_path / "train.tsv").write_text("input\ttarget\na\tb\n")
    for name in ("empty/.hidden/a.csv", "empty/README.md", "mixed/a.csv", "mixed/a.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        load_rows(f"file:{tmp_path / path}", "train")


def test_a_csv_has_fields_of_any_length(tmp_path):
    (tmp_path / "a.csv").write_text(f'input,target\n"{"long, " * 30_000}",x\n')
    limit = csv.field_size_limit()
    (row,) = load_rows(f"file:{tmp_path / 'a.csv'}", "train")
    assert len(row["input"]) == 180_000 and csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("text", "rows", "remark"),
    [
        ("a;b\n1,5;x, y\n", [{"a": "1,5", "b": "x, y"}], "a.csv: its fields are separated by ';'"),
        ("a\tb\n\"1\t2\"\t3\n", [{"a": "1\t2", "b": "3"}], r"separated by '\\t'"),
        ("a,b;c\n1;2,3\n", [{"a": "1;2", "b;c": "3"}], None),
        ("text\nfirst; second\nthird\n", [{"text": "first; second"}, {"text": "third"}], None),
        ("sep=;\na,x;b\n1;2\n", [{"a,x": "1", "b": "2"}], "separated by ';'"),
        ("a|b;c\n1|2;3\n4|5\n6|7\n", [{"a": str(i), "b;c": j} for i, j in
            ((1, "2;3"), (4, "5"), (6, "7"))], r"separated by '\|'"),
    ],
)  # fmt: skip
def test_what_separates_the_fields_of_a_csv(text, rows, remark, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    table = load_table(f"file:{tmp_path / 'a.csv'}", "train")
    assert [row.values for row in table] == rows
    assert len(table.remarks) == (remark is not None)
    assert remark is None or re.search(remark, table.remarks[0])


def test_a_json_is_a_list_or_objects_of_several_lines(tmp_path):
    listed = '[\n {"a": 1},\n\n {"b":\n  [2]}\n]\n'
    for text in (listed, '{"a": 1}\n\n\n{"b":\n [2]}', '{"a": 1}{"b": [2]}'):
        (tmp_path / "a.json").write_text(text)
        table = load_table(f"file:{tmp_path / 'a.json'}", "train")
        assert [row.values for row in table] == [{"a": 1, "b": None}, {"a": None, "b": [2]}]
    (tmp_path / "a.json").write_text(listed)
    assert [row.place for row in load_table(f"file:{tmp_path / 'a.json'}", "train")] == [
        "a.json line 2",
        "a.json line 4",
    ]


def test_names_of_labels_in_the_metadata_of_a_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    names = {"_type": "ClassLabel", "names": ["bad", "good"]}
    features = {
        "label": names,
        "tags": {"_type": "List", "feature": names},
        "old": [names],
        "inside": {"tag": names, "text": {"_type": "Value", "dtype": "string"}},
        "objects": {"_type": "Sequence", "feature": {"tag": names}},
    }
    row = {"label": 1, "tags": [0, 1], "old": [1], "inside": {"tag": 0, "text": "a"}}
    row |= {"objects": {"tag": [1, 0]}, "number": 1}
    table = pyarrow.Table.from_pylist([row, {name: None for name in row} | {"label": -1}])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    first, second = load_rows(f"file:{tmp_path / 'a.parquet'}", "train")
    assert first == {"label": "good", "tags": ["bad", "good"], "old": ["good"], "number": 1} | {
        "inside": {"tag": "bad", "text": "a"}, "objects": {"tag": ["good", "bad"]}
    }  # fmt: skip
    assert second == dict.fromkeys(row)


def test_numbers_of_a_parquet_are_the_decimal_ones_that_they_stand_for(tmp_path):
    import pyarrow
    import pyarrow.parquet

    short = pyarrow.float32()
    kinds = {"a": short, "b": pyarrow.list_(short), "c": pyarrow.struct([("d", short)])}
    row = {"a": 19.99, "b": [2.8, None], "c": {"d": 3.4}}
    table = pyarrow.Table.from_pylist([row, dict.fromkeys(row)], pyarrow.schema(kinds))
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert list(load_rows(f"file:{tmp_path / 'a.parquet'}", "train"))[0] == row
    twice = table.append_column("a", table["a"])
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", twice.schema) as file:
        file.write_table(twice)
    with pytest.raises(InputError, match="a.arrow: column 'a' is there twice; rename one"):
        load_rows(f"file:{tmp_path / 'a.arrow'}", "train")


def test_the_splits_of_a_folder(tmp_path):
    names = ["a/train-00000-of-00002.csv", "a/train-00001-of-00002.csv", "a/my_val.csv"]
    names += ["a/LICENSE.txt", "b/dev/x.csv.gz", "b/test/x.csv", "b/y.csv"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = f"input,target\n{name},x\n".encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    inputs = {
        (folder, split): [row["input"] for row in load_rows(f"file:{tmp_path / folder}", split)]
        for folder in "ab"
        for split in splits(f"file:{tmp_path / folder}")
    }
    assert inputs == {
        ("a", "train"): names[:2],
        ("a", "validation"): names[2:3],
        ("b", "validation"): names[4:5],
        ("b", "test"): names[5:6],
        ("b", "train"): names[6:],
    }
    assert len(load_rows(f"file:{tmp_path}/a/t*.csv", "train", limit=2)) == 2
    assert len(load_rows(f"file:{tmp_path}/**/*.csv", "train")) == 5
    with pytest.raises(InputError, match="unknown split of file:.*b 'tst'; allowed: .*'test'"):
        load_rows(f"file:{tmp_path}/b", "tst")
    (tmp_path / "b/z.csv").write_text("text,target\na,b\n")
    with pytest.raises(InputError, match="z.csv has the columns text, target, and .*y.csv has in"):
        load_rows(f"file:{tmp_path}/b", "train")


def test_half_a_character_is_replaced(tmp_path):
    lines = [
        {"input": "ha \ud83d", "target": "x"},
        {"input": ["\U0001f600", "\\ud83d"], "\udc00": 1},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load_rows(f"file:{tmp_path / 'a.jsonl'}", "train") == [
        {"input": "ha \ufffd", "target": "x", "\ufffd": None},
        {"input": ["\U0001f600", "\\ud83d"], "target": None, "\ufffd": 1},
    ]


def test_a_parquet_that_is_not_utf8(tmp_path):
    import pyarrow
    import pyarrow.parquet

    column = pyarrow.array([b"caf\xe9"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"input": column}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="cannot be read as parquet: 'utf-8' codec"):
        load_rows(f"file:{tmp_path / 'a.parquet'}", "train")


def test_a_file_is_read_once(tmp_path, monkeypatch):
    from prompt_jax.data import shards
    from prompt_jax.data.files import read_file

    path, read = tmp_path / "a.tsv", []
    path.write_text("input\ttarget\n" + "".join(f"text {i}\tx\n" for i in range(20)))
    monkeypatch.setattr(shards, "read_file", lambda p: read.append(p) or read_file(p))
    load_data(Config(data=DataConfig(task=f"file:{path}")))
    assert read == [path]
