"""The same rows as the `datasets` library reads, of every form of file and of the hub's cache."""

import bz2
import gzip
import json
import shutil
import time
from pathlib import Path

import pytest

from prompt_jax.config import Config, DataConfig, InputError, TaskConfig
from prompt_jax.data import hub, load_rows, splits
from prompt_jax.experiment import load_data

pytestmark = pytest.mark.slow  # The library takes a second to import, and builds what it reads.
NAMES = ["bad", "good"]
ROWS = [
    {"text": f'"{word}" film, number {i}', "title": None if i % 5 else "A; B", "label": i % 2}
    for i in range(20)
    for word in [NAMES[i % 2]]
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The library, with a cache of its own and no way to the hub."""
    library = pytest.importorskip("datasets")
    library.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(library.config, "HF_HUB_OFFLINE", True)
        yield library


@pytest.fixture(scope="module")
def labelled(datasets):
    """The rows with names of labels."""
    value = datasets.Value("string")
    label = datasets.ClassLabel(names=NAMES)
    features = datasets.Features({"text": value, "title": value, "label": label})
    return datasets.Dataset.from_list(ROWS, features=features)


def csv_of(dataset, path, separator):
    dataset.to_pandas().to_csv(path, index=False, sep=separator)


def shards_of(dataset, folder):
    folder.mkdir()
    for i in range(3):
        dataset.shard(3, i).to_parquet(folder / f"train-{i:05d}-of-00003.parquet")
    dataset.select(range(4)).to_parquet(folder / "test-00000-of-00001.parquet")


def arrow_of(dataset, path):
    import pyarrow.ipc

    table = dataset.data.table
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def zst_of(path):
    import pyarrow

    with pyarrow.output_stream(str(path), compression="zstd") as stream:
        stream.write(LINES.encode())


FORMS = {
    "a.csv": lambda dataset, path: csv_of(dataset, path, ","),
    "a.parquet": lambda dataset, path: dataset.to_parquet(path),
    "shards": shards_of,
    "train-*.parquet": lambda dataset, path: shards_of(dataset, path.parent / "parts"),
    "a.json": lambda dataset, path: path.write_text(json.dumps(ROWS, indent=1)),
    "a.jsonl": lambda dataset, path: path.write_text(LINES),
    "a.jsonl.gz": lambda dataset, path: path.write_bytes(gzip.compress(LINES.encode())),
    "a.jsonl.bz2": lambda dataset, path: path.write_bytes(bz2.compress(LINES.encode())),
    "a.jsonl.zst": lambda dataset, path: zst_of(path),
    "a.arrow": arrow_of,
    "a.txt": lambda dataset, path: path.write_text("".join(f"{r['text']}\n" for r in ROWS)),
    "saved": lambda dataset, path: dataset.save_to_disk(path, num_shards=2),
    "saved_splits": lambda dataset, path: dataset.train_test_split(0.2).save_to_disk(path),
}
MODULES = {"jsonl": "json", "txt": "text", "arrow": "arrow"}


def read_by(datasets, path):
    """The rows of a path by the library, class labels by their names."""
    if path.name.startswith("saved"):
        dataset = datasets.load_from_disk(path)
        dataset = dataset["train"] if isinstance(dataset, datasets.DatasetDict) else dataset
    elif path.is_dir():
        dataset = datasets.load_dataset(str(path), split="train")
    else:
        ending = path.name.split(".")[1]
        module = MODULES.get(ending, ending)
        dataset = datasets.load_dataset(module, data_files=str(path), split="train")
    label = dataset.features.get("label")
    names = label.int2str if isinstance(label, datasets.ClassLabel) else lambda value: value
    return [row | ({"label": names(row["label"])} if label else {}) for row in dataset]


@pytest.mark.parametrize("form", FORMS)
def test_rows_equal_those_of_datasets(form, datasets, labelled, tmp_path):
    path = tmp_path / form
    FORMS[form](labelled, path)
    path = path if "*" not in form else tmp_path / "parts" / form
    expected, rows = read_by(datasets, path), load_rows(f"file:{path}", "train")
    if form == "a.csv":  # A csv has texts only: the library guesses, and an empty cell is None.
        expected = [{k: "" if v is None else str(v) for k, v in row.items()} for row in expected]
    assert rows == expected and len(rows) in (16, 20)
    labels = () if form == "a.txt" else ("0=bad", "1=good")
    target = "{label}" if labels else "{text}"
    config = Config(
        data=DataConfig(task=f"file:{path}"),
        task=TaskConfig(source="{text}", target=target, labels=labels),
    )
    data = load_data(config)
    assert len(data.train) + len(data.validation) == len(rows)
    assert not labels or {row.target for row in data.train} == set(NAMES)


def keep(datasets, owner, name, splits, folder):
    """Puts splits into the library's cache, as a download leaves them."""
    files = {split: str(folder / f"{split}.parquet") for split in splits}
    for split, dataset in splits.items():
        dataset.to_parquet(files[split])
    builder = datasets.load_dataset_builder("parquet", data_files=files, cache_dir=str(folder))
    builder.download_and_prepare()
    place = Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{name}/default/0.0.0/abc"
    place.parent.mkdir(parents=True)
    shutil.move(builder.cache_dir, place)
    for path in place.glob("*.arrow"):
        path.rename(path.with_name(path.name.replace("parquet", name)))


@pytest.fixture(scope="module")
def cached(datasets, labelled, tmp_path_factory):
    """The rows of someone/tiny, which is in the library's cache."""
    parts = {"train": labelled, "test": labelled.select(range(4))}
    keep(datasets, "someone", "tiny", parts, tmp_path_factory.mktemp("built"))
    return [row | {"label": NAMES[row["label"]]} for row in ROWS]


@pytest.fixture(scope="module")
def mrqa(datasets, tmp_path_factory):
    """The rows of a small MRQA by split, subsets in turns as the hub has them in one table."""

    def row(subset, i):
        texts = {"context": f"In Oslo ({i}).", "question": "Where?", "qid": f"q{i}"}
        return texts | {"subset": subset, "answers": [f"Oslo ({i})", "Oslo"]}

    rows = {
        "train": [row(("SQuAD", "NewsQA", "TriviaQA-web")[i % 3], i) for i in range(36)],
        "validation": [row(("SQuAD", "NewsQA")[i % 2], i) for i in range(8)],
        "test": [row(("BioASQ", "DuoRC.ParaphraseRC")[i % 2], i) for i in range(6)],
    }
    parts = {split: datasets.Dataset.from_list(part) for split, part in rows.items()}
    keep(datasets, "mrqa-workshop", "mrqa", parts, tmp_path_factory.mktemp("mrqa"))
    return rows


def test_a_subset_of_mrqa_is_a_task(mrqa):
    name = "hf:mrqa-workshop/mrqa/NewsQA"
    train = [row for row in mrqa["train"] if row["subset"] == "NewsQA"]
    assert splits(name) == ["test", "train", "validation"]
    assert load_rows(name, "train") == train and len(train) == 12
    assert load_rows(name, "train", limit=2) == train[:2]
    assert load_rows(name, "train[:6]", limit=1) == train[:1]
    assert load_rows(f"{name}@main:validation", "train") == mrqa["validation"][1::2]
    assert load_rows("hf:mrqa-workshop/mrqa", "train") == mrqa["train"]
    data = load_data(Config(data=DataConfig(task=name)))
    assert (len(data.train), len(data.validation), data.tests) == (12, 4, {})
    assert data.train[0].source == "question: Where ? context: In Oslo ( 1 ) ."
    assert data.train[0].references == ("Oslo ( 1 )", "Oslo")
    assert load_rows("hf:mrqa-workshop/mrqa/DuoRC.ParaphraseRC:test", "") == mrqa["test"][1::2]


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ("BioASQ", "no rows in split 'train'; .* split: test, train, validation"),
        ("Squad", "unknown subset of hf:mrqa-workshop/mrqa 'Squad'; .*meant 'SQuAD'"),
    ],
)
def test_subsets_that_are_not_there(subset, message, limit, mrqa):
    with pytest.raises(InputError, match=message):
        load_rows(f"hf:mrqa-workshop/mrqa/{subset}", "train", limit)


@pytest.mark.parametrize(
    "name",
    ["hf:someone/tiny", "huggingface:someone/tiny/default", "hub:someone/tiny@main",
     "tfds:huggingface:someone__tiny/default"],
)  # fmt: skip
def test_a_dataset_of_the_hub(name, cached):
    assert splits(name) == ["test", "train"]
    assert load_rows(name, "train") == cached
    assert load_rows(name, "train[2:5]") == cached[2:5]
    assert load_rows(name, "train", limit=3) == cached[:3]
    assert load_rows(f"{name}:test", "train") == cached[:4]
    task = TaskConfig(source="{text}", target="{label}")
    data = load_data(Config(data=DataConfig(task=name, first_rows=12), task=task))
    assert (len(data.train) + len(data.validation), len(data.tests["test"])) == (12, 4)
    assert data.task.labels == tuple(NAMES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "hf:someone/tinny",
            "Couldn't reach.*meant 'hf:someone/tiny', which is in the cache.*file",
        ),
        ("hf:someone/tiny/other", "Available configs in the cache: .'default'.*write hf:ID/CONFIG"),
        ("hf:someone/tiny:tst", "unknown split .*'tst'; allowed: test, train.*Perhaps .*'test'"),
        ("hf:someone/tiny:train[50:]", "split 'train.50:.'.*corresponds to no data"),
        ("hf:some/one/ti/ny@x:y", "cannot be had: Couldn't reach 'some/one'"),
    ],
)
def test_datasets_that_the_hub_does_not_have(name, message, cached):
    with pytest.raises(InputError, match="(?s)" + message):
        load_rows(name, "train")


def test_a_hub_that_does_not_answer_is_asked_once(cached, datasets, monkeypatch):
    from huggingface_hub import constants

    hub._builder.cache_clear()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # Where nobody listens.
    assert load_rows("hf:someone/tiny", "train") == cached
    began = time.monotonic()
    with pytest.raises(InputError, match=r"127.0.0.1:9 does not answer .*TIMEOUT=10.*file:FOLDER"):
        load_rows("hf:some/strange", "train")
    assert time.monotonic() - began < 5 and not datasets.config.HF_HUB_OFFLINE
    hub._builder.cache_clear()
