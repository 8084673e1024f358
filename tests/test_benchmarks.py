"""Every known task: its rows as texts, its metrics by their definitions, and the page of them."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef
from task_rows import FIXTURES, SUITES, page, task_of

from prompt_jax.answers.referents import judged
from prompt_jax.config import METRICS, InputError, TaskConfig
from prompt_jax.data import load_rows
from prompt_jax.metrics import measure
from prompt_jax.tasks import (
    TASKS,
    Example,
    resolve,
    taught,
    to_example,
    validation_split,
)
from prompt_jax.tasks.benchmarks import ROWS

ROOT = Path(__file__).parent.parent


def test_every_task_has_its_fixture_and_a_place_on_the_page():
    assert set(FIXTURES) == {row.names[0] for row in ROWS}
    assert {metric for task in TASKS.values() for metric in task.metrics} <= set(METRICS)
    for row in ROWS:
        assert sum(row.names[0].startswith(starts) for starts in SUITES.values()) == 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.names[0])
def test_a_row_becomes_the_texts_of_the_paper(row):
    for fixture in FIXTURES[row.names[0]]:
        for name in row.names:
            task = task_of(name, fixture.row)
            example = to_example(task, fixture.row)
            assert (str(example.source), example.target) == (fixture.source, fixture.target)
            assert (example.others, example.group) == (fixture.others, fixture.group)
            assert task.metrics == row.task.metrics


def test_the_page_of_tasks_is_fresh():
    """`python tests/task_rows.py > docs/tasks.md` writes it."""
    assert (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8") == page()


def test_copies_of_a_task_are_read_by_its_format():
    row = FIXTURES["tfds:super_glue/multirc"][0].row
    like = TaskConfig(like="tfds:super_glue/multirc")
    task = resolve("file:multirc.jsonl", like, list(row))
    assert (task.name, task.group) == ("file:multirc.jsonl", "{idx.paragraph}/{idx.question}")
    assert to_example(task, row).group == "4/17"
    del row["idx"]
    without = resolve("file:multirc.jsonl", like, list(row))
    assert (without.metrics, without.group) == (("f1",), "")
    with pytest.raises(InputError, match="unknown task.like 'tfds:super_glue/multrc'.*Perhaps"):
        resolve("file:multirc.jsonl", TaskConfig(like="tfds:super_glue/multrc"), list(row))


def test_squad_is_read_as_mrqa_where_it_is_told():
    row = {
        "question": "Where?",
        "context": "In Oslo (Norway).",
        "answers": {"text": ["Oslo (Norway)", "Oslo"], "answer_start": [3, 3]},
    }
    task = resolve("hf:rajpurkar/squad@main", TaskConfig(like="tfds:mrqa/squad"), list(row))
    assert to_example(task, row) == Example(
        "question: Where ? context: In Oslo ( Norway ) .", "Oslo ( Norway )", ("Oslo",)
    )


def test_splits_to_validate_on():
    parts = ["test_matched", "train", "validation_matched", "validation_mismatched"]
    assert validation_split("tfds:glue/mnli:2.0.0", parts) == "validation_matched"
    assert validation_split("hf:nyu-mll/glue/mnli@main", parts) == "validation_matched"
    assert validation_split("tfds:glue/sst2", ["train", "validation"]) == "validation"
    assert validation_split("file:a", ["train", "validation"]) == "validation"
    assert validation_split("tfds:imdb_reviews", ["train", "test"]) is None


def test_labels_of_qqp_are_those_of_mrpc():
    """A prompt of QQP answers MRPC, whose rows have other label words."""
    labels = ("not_equivalent=not_duplicate", "equivalent=duplicate")
    row = FIXTURES["tfds:glue/mrpc"][0].row
    task = resolve("tfds:glue/mrpc", TaskConfig(labels=labels), list(row))
    assert to_example(task, row).target == "not_duplicate" and task.metrics == ("f1", "accuracy")


def test_what_is_learned_of_record_and_wsc():
    for name, targets in (
        ("tfds:super_glue/record", ["Ada Byron", "Byron"]),
        ("tfds:super_glue/wsc", ["Mark"]),
        ("tfds:mrqa/drop", ["Oslo ( Norway )"]),
        ("tfds:definite_pronoun_resolution", ["Tom"]),
    ):
        rows = [fixture.row for fixture in FIXTURES[name]]
        task = task_of(name, rows[0])
        learned = taught(task, [to_example(task, row) for row in rows])
        assert [example.target for example in learned] == targets
        assert not any(example.others for example in learned) or "mrqa" in name


@pytest.mark.parametrize(
    ("text", "referent", "answer"),
    [
        ("The Dog", "dog", "True"),
        ("a dog", "the small dog", "True"),
        ("the small dog", "dog", "True"),
        ("cat", "the dog", "False"),
        ("Bob", "Bob's hat", "False"),
        ("Bob's hat", "Bob's hat", "True"),
        (" ", "dog", ""),
        ("the", "the dog", ""),
    ],
)
def test_a_written_referent_is_compared_as_t5_compares_it(text, referent, answer):
    assert judged(text, referent) == answer


def test_rows_whose_pronoun_or_answers_are_not_there():
    row = FIXTURES["tfds:super_glue/wsc"][0].row | {"span2_index": 6}
    with pytest.raises(InputError, match="word 6 is 'and' and not 'he'"):
        to_example(task_of("tfds:super_glue/wsc", row), row)
    row = FIXTURES["tfds:super_glue/record"][0].row | {"answers": []}
    with pytest.raises(InputError, match="'answers' has no right answer, as in a split without"):
        to_example(task_of("tfds:super_glue/record", row), row)


BINARY = ("not_equivalent", "equivalent")


def test_f1_is_that_of_the_positive_class():
    truth = ["equivalent"] * 68 + ["not_equivalent"] * 32
    answers = ["equivalent"] * 66 + ["not_equivalent"] * 3 + ["equivalent"] * 31
    scores = measure(("f1", "accuracy"), answers, truth, BINARY)
    assert scores["f1"] == f1_score(truth, answers, pos_label="equivalent")
    # An answer that is no label is wrong on either side, as in T5.
    answers[0] = answers[99] = "maybe"
    flipped = ["not_equivalent", *answers[1:99], "equivalent"]
    assert measure(("f1",), answers, truth, BINARY)["f1"] == f1_score(
        truth, flipped, pos_label="equivalent"
    )
    assert measure(("f1",), ["not_equivalent"], ["not_equivalent"], BINARY)["f1"] == 0.0
    with pytest.raises(InputError, match="of the second of two label words, and there are 3"):
        measure(("f1",), ["a"], ["a"], ("a", "b", "c"))


def test_mean_f1_and_matthews_are_those_of_scikit_learn():
    labels = ("entailment", "contradiction", "neutral")
    draw = np.random.default_rng(0)
    truth, answers = ([labels[i] for i in draw.integers(0, 3, 40)] for _ in range(2))
    scores = measure(("macro_f1", "matthews"), answers, truth, labels)
    mean = f1_score(truth, answers, labels=list(labels), average="macro")
    assert scores["macro_f1"] == pytest.approx(float(mean), abs=1e-12)
    assert scores["matthews"] == pytest.approx(matthews_corrcoef(truth, answers), abs=1e-12)


def test_multirc_is_judged_by_question():
    truth = ["True", "False", "True", "False", "False"]
    answers = ["True", "False", "True", "True", "False"]
    groups = ["0/1", "0/1", "0/2", "0/2", "1/1"]
    scores = measure(("f1", "grouped_match"), answers, truth, ("False", "True"), groups)
    assert scores == {"f1": f1_score(truth, answers, pos_label="True"), "grouped_match": 2 / 3}
    with pytest.raises(InputError, match="rows that belong together.*leave it out of task.metrics"):
        measure(("grouped_match",), answers, truth, ("False", "True"))


def test_record_takes_the_nearest_of_its_answers():
    references = [("Ada Byron", "Byron"), ("Oslo",)]
    scores = measure(("token_f1", "exact_match"), ["the Byron.", "in Oslo"], references)
    assert scores == {"token_f1": (1 + 2 / 3) / 2, "exact_match": 0.5}


def test_the_rouge_of_sentences_parts_them():
    scores = measure(("rougeLsum",), ["Bo slept . Ada sang ."], ["Ada sang .\nBo slept ."])
    assert scores["rougeLsum"] == 1.0
    assert measure(("rougeL",), ["Bo slept . Ada sang ."], ["Ada sang .\nBo slept ."]).score < 1


FEATURES = {
    "multirc": ("paragraph question answer", ("False", "True")),
    "record": ("passage query", ()),
    "wsc.fixed": ("text span1_text span2_text", ("False", "True")),
    "cb": ("premise hypothesis", ("entailment", "contradiction", "neutral")),
}
"""Columns of texts, and the class labels, of configurations as the hub has them."""


@pytest.fixture
def super_glue(tmp_path, monkeypatch):
    """A clone of the hub's SuperGLUE in the working folder, a split of made rows each."""
    library = pytest.importorskip("datasets")
    library.disable_progress_bars()
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    folder, card = tmp_path / "aps" / "super_glue", ["---", "configs:"]
    text, number, texts = library.Value("string"), library.Value("int32"), library.List
    for name, (columns, labels) in FEATURES.items():
        rows = [dict(fixture.row) for fixture in FIXTURES[f"tfds:super_glue/{name}"]]
        features = dict.fromkeys(columns.split(), text)
        features |= {
            column: {inner: number for inner in value} if isinstance(value, dict) else number
            for column, value in rows[0].items()
            if isinstance(value, dict | int)
        }
        features |= {c: texts(text) for c, value in rows[0].items() if isinstance(value, list)}
        if labels:
            features["label"] = library.ClassLabel(names=list(labels))
            rows = [row | {"label": labels.index(row["label"])} for row in rows]
        (folder / name).mkdir(parents=True)
        dataset = library.Dataset.from_list(rows, features=library.Features(features))
        dataset.to_parquet(folder / name / "validation-00000-of-00001.parquet")
        card += [f"- config_name: {name}", "  data_files:", "  - split: validation"]
        card += [f"    path: {name}/validation-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))


@pytest.mark.slow  # The library takes a second to import.
@pytest.mark.parametrize("name", FEATURES)
def test_a_benchmark_of_the_hub_is_read_as_the_paper_has_it(name, super_glue):
    rows = load_rows(f"hf:aps/super_glue/{name}", "validation")
    fixtures = FIXTURES[f"tfds:super_glue/{name}"]
    task = task_of(f"hf:aps/super_glue/{name}@main", rows[0])
    for row, fixture in zip(rows, fixtures, strict=True):
        example = to_example(task, row)
        assert (str(example.source), example.target) == (fixture.source, fixture.target)
        assert (example.others, example.group) == (fixture.others, fixture.group)
