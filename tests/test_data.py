"""Rows from embedded tasks, TFDS and files; every one that cannot be read says why."""

import collections
import csv
import dataclasses
import gzip
import json
import re
import shutil
import socket
import subprocess
import sys

import pytest

from prompt_jax.config import Config, DataConfig, InputError, TaskConfig
from prompt_jax.data import load_examples, load_rows, load_table, splits
from prompt_jax.experiment import load_data
from prompt_jax.experiment.choice import warnings_of
from prompt_jax.tasks import Task, resolve, to_example

SIZES = {
    "sentiment": (7171, 1000, 1000),
    "gloss_category": (8000, 1000, 1000),
    "headline_satire": (8000, 1000, 1000),
    "factbook_topic": (3071, 422, 500),
    "kjv_to_modern": (8000, 800, 1000),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_embedded_tasks_are_whole(name):
    task = resolve(f"embedded:{name}", TaskConfig(), ["input", "target"])
    train, validation, test = SIZES[name]
    # That the last row is there and none after it shows the size without reading the rest.
    assert len(load_rows(f"embedded:{name}", f"train[{train - 1}:]")) == 1
    assert len(load_rows(f"embedded:{name}", f"validation[{validation - 1}:]")) == 1
    examples = load_examples(task, f"embedded:{name}", "test")
    assert len(examples) == test
    if task.labels:
        assert {example.target for example in examples} == set(task.labels)


def test_splits_limits_and_slices():
    out_of_domain = ["test_ood_amazon", "test_ood_nyt", "test_ood_tweets"]
    assert splits("embedded:sentiment") == ["test", *out_of_domain, "train", "validation"]
    assert splits("embedded:sentiment/test_ood_nyt") == ["test_ood_nyt"]
    assert len(load_rows("embedded:sentiment/test_ood_nyt", "train")) == 1535
    assert load_rows("embedded:sentiment", "train", limit=1) == [
        {"input": "Obvious, obnoxious and didactic burlesque.", "target": "negative"}
    ]
    rows = load_rows("embedded:sentiment", "train[1:3]")
    assert rows == load_rows("embedded:sentiment", "train", limit=3)[1:]


def test_reading_imports_no_tensorflow():
    code = (
        "import sys; from prompt_jax.data import load_rows; "
        "assert 'tensorflow_datasets' not in sys.modules and 'grain' not in sys.modules; "
        "load_rows('embedded:factbook_topic', 'test'); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_embedded_rows_can_be_prepared_again(tmp_path):
    from prompt_jax.assets.embedded_tasks import prepare

    for name in SIZES:
        for split in splits(f"embedded:{name}"):
            path = tmp_path / "tsv" / name / f"{split}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = load_rows(f"embedded:{name}", split, limit=20)
            lines = ["input\ttarget"] + [f"{row['input']}\t{row['target']}" for row in rows]
            path.write_text("\n".join(lines) + "\n", "utf-8")
    prepare(tmp_path / "tsv", tmp_path)
    for name in SIZES:
        again = f"tfds:{tmp_path}/embedded_tasks/{name}/1.0.0"
        assert splits(again) == splits(f"embedded:{name}")
        assert load_rows(again, "train") == load_rows(f"embedded:{name}", "train", limit=20)


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """A folder in which TFDS's own GLUE builder has prepared three sentences."""
    import tensorflow_datasets.text.glue as tfds_glue

    class Glue(tfds_glue.Glue, skip_registration=True):
        name = "glue"

        def _split_generators(self, dl_manager):
            train = [(0, {"sentence": "good", "label": 1, "idx": 0})]
            train += [(1, {"sentence": "bad", "label": 0, "idx": 1})]
            return {"train": train, "test": [(0, {"sentence": "so", "label": -1, "idx": 0})]}

    folder = tmp_path_factory.mktemp("tfds")
    Glue(config="sst2", data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_prepared_glue_works_as_it_is(glue, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(glue))
    assert splits("tfds:glue/sst2") == ["test", "train"]
    rows = load_rows("tfds:glue/sst2", "train")
    assert sorted(row.pop("idx") for row in rows) == [0, 1]
    assert {row["sentence"]: row["label"] for row in rows} == {
        "good": "positive",
        "bad": "negative",
    }
    task = resolve("tfds:glue/sst2", TaskConfig(), rows[0])
    (example,) = load_examples(task, "tfds:glue/sst2:2.0.0@train[:1]", "validation")
    assert example.source in ("sentence: good", "sentence: bad")
    with pytest.raises(
        InputError, match=r"\(test\) row 1: column 'label' has no value, as in a split"
    ):
        load_examples(task, "tfds:glue/sst2@test", "train")


def prepared(name, rows, folder, monkeypatch):
    """A dataset of TFDS's, prepared with a few rows of its features."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls(name)
    split = {"train": list(enumerate(rows))}
    monkeypatch.setattr(builder, "_split_generators", lambda self, manager: split)
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))


def test_tags_of_prepared_conll(tmp_path, monkeypatch):
    import tensorflow_datasets.text.conll2003

    assert tensorflow_datasets.text.conll2003  # Importing it makes it known.
    row = {"tokens": ["EU", "rejects"], "pos": ["NNP", "VBZ"], "chunks": ["B-NP", "B-VP"]}
    prepared("conll2003", [row | {"ner": ["B-ORG", "O"]}], tmp_path, monkeypatch)
    (found,) = load_rows("tfds:conll2003", "train")
    assert found == row | {"ner": ["B-ORG", "O"]}
    task = resolve("tfds:conll2003", TaskConfig(), found)
    (example,) = load_examples(task, "tfds:conll2003", "train")
    assert example[:2] == ("EU rejects", "B-ORG O")


def test_answers_of_prepared_squad(tmp_path, monkeypatch):
    answers = {"text": ["Ada", "Ada."], "answer_start": [8, 8]}
    row = {"id": "1", "title": "T", "context": "Bob and Ada.", "question": "Who?"}
    prepared("squad", [row | {"answers": answers}], tmp_path, monkeypatch)
    (found,) = load_rows("tfds:squad", "train")
    assert found == row | {"answers": answers}
    task = resolve("tfds:squad", TaskConfig(), found)
    (example,) = load_examples(task, "tfds:squad", "train")
    assert example.source == "question: Who? context: Bob and Ada."
    assert example.references == ("Ada", "Ada.")
    assert example.source[example.start :] == "Ada."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tfds:gleu/sst2", "no dataset 'gleu/sst2'.*Perhaps you meant 'tfds:glue/sst2'"),
        ("tfds:glue/sst3", "cannot be prepared: .*Perhaps you meant 'tfds:glue/sst2'"),
        ("tfds:a b", "tfds:a b is no dataset name"),
        (
            "tfds:super_glue/boolq",
            "needs a module .*tensorflow.*, or take hf:aps/super_glue/boolq",
        ),
        ("tfds:samsum", "cannot be prepared: Manual directory"),
        ("tfds:{folder}", "holds no prepared dataset.*name the folder of dataset_info.json"),
        ("embedded:sentiment/tst", "unknown split of embedded:sentiment.*Perhaps you meant 'test'"),
        ("embedded:sentiment/test[:x", "Error parsing split.*write e.g. train.10:20."),
        ("embedded:sentiment/test[2000:]", "2000:1000. incompatible with 1000 examples"),
        ("embedded:sentiment/test[5:5]", "has no rows in split 'test.5:5.'; take a larger part"),
        ("embedded:sentiment/test[10%:5%]", "has no rows in split"),
    ],
)
def test_datasets_that_cannot_be_read(name, message, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="(?s)" + message):
        load_rows(name.format(folder=tmp_path), "train")


def test_a_dataset_in_a_format_of_tensorflow(glue, tmp_path, monkeypatch):
    shutil.copytree(glue, tmp_path, dirs_exist_ok=True)
    info = tmp_path / "glue/sst2/2.0.0/dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="prepared as tfrecord, which only TensorFlow reads"):
        load_rows("tfds:glue/sst2", "train")


def test_a_machine_without_network_is_told_at_once(tmp_path, monkeypatch):
    def unknown(host, port):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with pytest.raises(InputError, match="no network: the host .* or take hf:"):
        load_rows("tfds:glue/sst2", "train")


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("in the way of the data folder")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "a file"))
    with pytest.raises(InputError, match="preparing it failed .*try again, or set TFDS_DATA_DIR"):
        load_rows("tfds:glue/sst2", "train")


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


def test_rows_without_a_label_of_several_stay(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(
        json.dumps({"input": f"text {i}", "target": target}) + "\n"
        for i, target in enumerate([[" a", "b"], "", None, ["a", None]] * 9)
    ))  # fmt: skip
    task = TaskConfig(kind="multi_label", labels=("a", "b"))
    data = DataConfig(task=f"file:{tmp_path / 'a.jsonl'}", skip_unlabelled=True)
    rows = [*(loaded := load_data(Config(data=data, task=task))).train, *loaded.validation]
    assert collections.Counter(row.target for row in rows) == {"a, b": 9, "": 9, "a": 9}
    with pytest.raises(InputError, match="f1 is of one of two classes, and task .* is a multi"):
        load_data(Config(data=data, task=dataclasses.replace(task, metrics=("f1",))))


@pytest.mark.parametrize(
    ("template", "cell"),
    [("plain", 7), ("fifths", float("inf")), ("any", []), ("starred", "it"), ("commas", [1, None])],
)
def test_a_spec_that_does_not_fit_a_cell(template, cell):
    task = Task(name="t", source=f"{{a}} {{input:{template}}}", target="{a}")
    row = {"input": cell, "a": "b", "pronoun": None}
    if template == "commas":
        assert to_example(task, row).source == "b 1, None"
    else:
        with pytest.raises(InputError, match=f"input:{template}.* cannot be applied"):
            to_example(task, row)


def test_a_bad_row_names_its_line(tmp_path):
    (tmp_path / "a.csv").write_text('input,target\n"a\nb",x\nc,z\n')
    task = Task(name="t", source="{input}", target="{target}", labels=("x", "y"))
    with pytest.raises(InputError, match="a.csv line 4: target 'z' is not a label word"):
        load_examples(task, f"file:{tmp_path / 'a.csv'}", "train")


def test_the_hub_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r'hf:a/b is read by.*pip install "prompt-jax\[hf\]"'):
        splits("hub:a/b")


def task_data(path, rows, **options):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_data(Config(data=DataConfig(task=f"file:{path}", **options)))


def test_rows_without_a_target_are_refused_or_left_out(tmp_path):
    rows = [{"input": f"text {i}", "target": ("yes", "no", None, " ")[i % 4]} for i in range(40)]
    with pytest.raises(InputError, match="line 3: column 'target' has no value.*skip-unlabelled"):
        task_data(tmp_path / "a.jsonl", rows)
    data = task_data(tmp_path / "a.jsonl", rows, skip_unlabelled=True)
    assert len(data.train) + len(data.validation) == 20 and data.task.labels == ("no", "yes")
    assert data.remarks == ("20 of 40 rows (train) have no target and are left out",)
    assert data.remarks[0] in warnings_of(data, Config())
    with pytest.raises(InputError, match="none of the 10 rows has a target; correct"):
        task_data(tmp_path / "a.jsonl", rows[2::4], skip_unlabelled=True)


def test_training_rows_of_few_shots_and_of_labels_in_balance(tmp_path):
    rows = [{"input": f"text {i}", "target": "no" if i % 10 else "yes"} for i in range(100)]
    data = task_data(tmp_path / "a.jsonl", rows, shots=4)
    assert (len(data.train), len(data.validation), data.held_out) == (8, 8, True)
    task_data(tmp_path / "b.jsonl", rows)
    validation = f"file:{tmp_path}/b.jsonl"
    data = task_data(tmp_path / "a.jsonl", rows, shots=4, validation=validation)
    assert (len(data.train), len(data.validation), data.held_out) == (8, 100, False)
    data = task_data(tmp_path / "a.jsonl", rows, balanced=True)
    assert sum(row.target == "yes" for row in data.train) == len(data.train) / 2 == 81
    with pytest.raises(InputError, match="both say how many rows to train on; leave one out"):
        DataConfig(shots=4, max_examples=8)


def test_rows_of_one_label_teach_nothing(tmp_path):
    rows = [{"input": f"text {i}", "target": "no" if i < 50 else "yes"} for i in range(100)]
    task_data(tmp_path / "a.jsonl", rows)
    config = Config(
        data=DataConfig(task=f"file:{tmp_path / 'a.jsonl'}", first_rows=40),
        task=TaskConfig(labels=("no", "yes")),
    )
    with pytest.raises(InputError, match="all 36 training rows have the label 'no', which teaches"):
        load_data(config)
