"""Several labels of a text, or none: in words and by a head, from rows to predictions."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax import cli
from prompt_jax.answers import label_sets
from prompt_jax.answers.readout import Answers
from prompt_jax.config import Config, DataConfig, EvalConfig, InputError, TaskConfig, TrainConfig
from prompt_jax.experiment import TUNED, train
from prompt_jax.serve.prompts import Served, head_of
from prompt_jax.tasks import Example, Task, completed, resolve, to_example

TASK = Task(
    name="t", source="{text}", target="{labels}", kind="multi_label", labels=("bad", "good", "no"),
    values=(("0", "bad"), ("1", "good")),
)  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "target"),
    [
        (["good", "bad"], "bad, good"),
        ([1, 0, "1"], "bad, good"),
        ([], ""),
        ("", ""),
        ("no; good|bad", "bad, good, no"),
        ("good", "good"),
        (1, "good"),
    ],
)
def test_labels_of_a_row(labels, target):
    assert to_example(TASK, {"text": "a", "labels": labels}) == Example("a", target)


def test_rows_and_labels_that_do_not_fit():
    with pytest.raises(InputError, match="line 3: target 'x' is not a label word"):
        to_example(TASK, {"text": "a", "labels": ["good", "x"]}, "line 3")
    with pytest.raises(InputError, match="line 3: column 'labels' has no value"):
        to_example(TASK, {"text": "a", "labels": None}, "line 3")
    for labels, message in ((("a", "none"), "the label word 'none'"), (("a",), "1 label word")):
        task = Task(name="t", source="{a}", target="{b}", kind="multi_label", labels=labels)
        with pytest.raises(InputError, match=message):
            completed(task, [])


def test_labels_of_lists_are_inferred():
    rows = [(f"line {i}", {"text": "a", "labels": ["b", "a"][: i % 3]}) for i in range(9)]
    config = TaskConfig(source="{text}", target="{labels}", kind="multi_label")
    task = resolve("file:a.jsonl", config, ["text", "labels"], rows)
    assert (task.labels, task.choices) == (("a", "b"), ())
    assert task.metrics == ("micro_f1", "macro_f1", "accuracy")
    assert task.ranked == ("a", "b", "none")


def test_every_label_is_answered_by_itself(tiny_backbone):
    logits = np.array([[-1.0, 2.0, 3.0], [-1.0, -2.0, -90.0]])
    answers = label_sets.answers(TASK, tiny_backbone.tokenizer, list(logits), ["a", "b"], [])
    assert answers.predictions == ["good, no", ""] and answers.apart
    np.testing.assert_allclose(np.exp(answers.scores), 1 / (1 + np.exp(-logits)))
    examples = [Example("a", "good, no"), Example("b", "bad")]
    signs = np.array([[-1, 1, 1], [1, -1, -1]])
    expected = np.log(1 / (1 + np.exp(-signs * logits))).sum(1).mean()
    assert label_sets.likelihood(answers, examples, TASK) == pytest.approx(expected)
    right = label_sets.applies(examples, TASK.labels).astype(float)
    assert float(label_sets.mean_loss(jnp.asarray(logits), right)) == pytest.approx(-expected / 3)
    scores = np.array([[1.0, 2.0, 1.5]])
    np.testing.assert_allclose(label_sets.above_none(scores), [[-0.5, 0.5]])
    assert isinstance(answers, Answers)


def test_a_server_refuses_several_labels(prompt):
    import dataclasses

    several = dataclasses.replace(prompt, task=TASK)
    for served in (
        Served(reference="a", prompt=several),
        Served(reference="a", prompt=several, head="multi_label"),
    ):
        with pytest.raises(InputError, match="is for multi label and gives no class"):
            served.check_classifies()
    head = dataclasses.replace(prompt.method, task_type="SEQ_CLS", num_labels=3)
    assert head_of(dataclasses.replace(several, method=head)) == "multi_label"


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["bert_folder", "tiny_folder"])
def test_several_labels_are_learned(folder, request, tmp_path):
    """A head of BERT, and the words of T5."""
    rows = [
        {"text": " ".join(words) + f" number {i}", "labels": list(words)}
        for i in range(10)
        for words in (("good",), ("bad",), ("good", "bad"), ())
    ]
    for row in rows:
        row["text"] = row["text"].strip()
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    backbone = str(request.getfixturevalue(folder))
    config = Config(
        backbone=backbone,
        out=str(tmp_path / "run"),
        method=pj.FullConfig(),
        data=DataConfig(task=f"file:{path}", max_source_length=16, test=f"file:{path}"),
        task=TaskConfig(source="{text}", target="{labels}", kind="multi_label"),
        train=TrainConfig(
            steps=150, batch_size=8, eval_every=150, optimizer="adamw", learning_rate=1e-2
        ),
        eval=EvalConfig(batch_size=8),
    )
    result = train(config, say=lambda line: None)
    assert (result.prompt.method.num_labels == 2) == (folder == "bert_folder")
    assert result.results[TUNED]["test"]["micro_f1"] > 0.99
    output = tmp_path / "out.jsonl"
    arguments = ["--prompt", str(tmp_path / "run"), "--backbone", backbone]
    assert cli.main(["predict", *arguments, "--input", str(path), "--output", str(output)]) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["prediction"] for row in records[:4]] == ["good", "bad", "bad, good", ""]
    assert all(value > 0.5 for value in records[2]["scores"].values())
    assert all(value < 0.5 for value in records[3]["scores"].values())
