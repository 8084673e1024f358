"""Rows from embedded tasks and TFDS, and which of them a run takes."""

import collections
import dataclasses
import json
import shutil
import socket
import subprocess
import sys

import pytest

from prompt_jax.config import Config, DataConfig, InputError, TaskConfig
from prompt_jax.data import load_examples, load_rows, splits
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
