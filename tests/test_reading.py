"""Words tagged and answers found by a head: from a file of rows to predictions."""

import dataclasses
import json

import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax import cli
from prompt_jax.answers import answer
from prompt_jax.answers.spans import LONGEST_SPAN
from prompt_jax.answers.spans import span_of as span
from prompt_jax.answers.tags import tags_of as tags
from prompt_jax.config import Config, DataConfig, EvalConfig, InputError, TaskConfig, TrainConfig
from prompt_jax.experiment import TUNED, train

PLACES = np.array([[0, 0], [0, 3], [4, 6], [6, 7], [8, 9], [9, 9]])
TEXT = "one two x"


def test_tags_of_words():
    scores = np.eye(3)[[2, 1, 2, 0, 0, 1]]
    assert tags(scores, TEXT, PLACES, ("O", "B-X", "B-Y")) == "B-X B-Y O"
    # The last word was cut off.
    assert tags(scores, TEXT, PLACES[:4], ("O", "B-X", "B-Y")) == "B-X B-Y O"


def test_the_likeliest_span():
    first, last = np.zeros(6), np.zeros(6)
    first[2], last[3] = 2, 2
    assert span(np.stack([first, last]), TEXT, PLACES) == "two"
    # An end before its beginning is none, and neither is a special token.
    last[1], last[0], first[5] = 3, 9, 9
    assert span(np.stack([first, last]), TEXT, PLACES) == "two"
    assert span(np.zeros((2, 2)), "", np.zeros((2, 2), int)) == ""


def test_a_span_has_its_limit():
    words = " ".join("a" * 50)
    places = np.array([[2 * i, 2 * i + 1] for i in range(50)])
    scores = np.full((2, 50), -9.0)
    scores[0, 0] = scores[1, 49] = 0
    scores[1, 3] = -1
    assert LONGEST_SPAN < 50 and span(scores, words, places) == "a a a a"


def rows_of_tags():
    for i in range(40):
        tokens = ["good" if i % 3 else "bad", "film", "number", str(i)]
        yield {"tokens": tokens, "tags": ["B-ADJ", "O", "O", "B-NUM"]}


def rows_of_spans():
    for i in range(40):
        adjective = "good" if i % 3 else "bad"
        yield {
            "question": "number",
            "context": f"{adjective} film {i} yes",
            "answers": {"text": [f"{i}", f"film {i}"], "answer_start": [len(adjective) + 6, 0]},
        }


def config_for(folder, tmp_path, rows, method=None, **task):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Config(
        backbone=str(folder),
        out=str(tmp_path / "run"),
        method=method or pj.FullConfig(),
        data=DataConfig(task=f"file:{path}", max_source_length=16, test=f"file:{path}"),
        task=TaskConfig(**task),
        train=TrainConfig(
            steps=60, batch_size=8, eval_every=60, optimizer="adamw", learning_rate=1e-2
        ),
    )


TAGGING = {"source": "{tokens}", "target": "{tags}", "kind": "tagging"}
SPANS = {"source": "{question}[SEP]{context}", "target": "{answers}", "kind": "span"}


def commands(result, folder, tmp_path, rows):
    """What predict writes to the rows, and what evaluate prints."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--prompt", str(result.folder), "--backbone", str(folder)]
    named = ["--input", str(source), "--output", str(output)]
    assert cli.main(["predict", *arguments, *named]) == 0
    assert cli.main(["evaluate", *arguments, "--json"]) == 0
    return [json.loads(line)["prediction"] for line in output.read_text().splitlines()]


@pytest.mark.slow
def test_tags_are_learned(bert_folder, tmp_path, capsys):
    config = config_for(bert_folder, tmp_path, rows_of_tags(), **TAGGING)
    result = train(config, say=lambda line: None)
    method = result.prompt.method
    assert (method.task_type, method.num_labels) == ("TOKEN_CLS", 3)
    assert result.prompt.task.labels == ("O", "B-ADJ", "B-NUM")
    assert result.results[TUNED]["test"] == {"entity_f1": 1.0, "tag_accuracy": 1.0}
    assert result.results["majority"]["test"] == {"entity_f1": 0.0, "tag_accuracy": 0.5}
    rows = [{"tokens": ["bad", "film", "number", "77"]}, {"tokens": ["good"]}]
    assert commands(result, bert_folder, tmp_path, rows) == ["B-ADJ O O B-NUM", "B-ADJ"]
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(found["entity_f1"] == 1.0 for found in last["results"][TUNED].values())


@pytest.mark.slow
def test_spans_are_learned(bert_folder, tmp_path, capsys):
    config = config_for(bert_folder, tmp_path, rows_of_spans(), **SPANS)
    result = train(config, say=lambda line: None)
    assert (result.prompt.method.task_type, result.prompt.method.num_labels) == ("QUESTION_ANS", 2)
    assert result.results[TUNED]["test"] == {"token_f1": 1.0, "exact_match": 1.0}
    rows = [{"question": "number", "context": "good film 25 yes"}]
    assert commands(result, bert_folder, tmp_path, rows) == ["25"]


def test_a_head_of_another_task(bert_folder, tmp_path):
    config = config_for(bert_folder, tmp_path, rows_of_tags(), **TAGGING)
    short = dataclasses.replace(config.train, steps=1, eval_every=1)
    result = train(dataclasses.replace(config, train=short), say=lambda line: None)
    arguments = ["--prompt", str(result.folder), "--backbone", str(bert_folder)]
    path = config.data.task
    backbone = pj.load_backbone(bert_folder)
    other = dataclasses.replace(result.prompt.task, labels=("O", "B-ADJ"))
    options = {"data": config.data, "eval": EvalConfig()}
    with pytest.raises(InputError, match="the head has 3 classes and task .* has 2 tags; use"):
        answer(backbone, result.prompt.injection(), ["good"], other, **options)
    spans = dataclasses.replace(other, kind="span", labels=())
    with pytest.raises(InputError, match="has 3 classes and task .* has 2 ends of an answer"):
        answer(backbone, result.prompt.injection(), ["good"], spans, **options)
    assert cli.main(["evaluate", *arguments, "--data.task", path, "--task.labels", "O", "X"]) == 2


@pytest.mark.slow
def test_a_writer_tags_in_words(tiny_folder, tmp_path):
    """T5 has no head: it writes the tags, and is judged by them."""
    config = config_for(tiny_folder, tmp_path, rows_of_tags(), pj.PromptTuningConfig(), **TAGGING)
    short = dataclasses.replace(config.train, steps=1, eval_every=1, batch_size=4)
    result = train(dataclasses.replace(config, train=short), say=lambda line: None)
    assert result.prompt.method.task_type == "SEQ_2_SEQ_LM"
    assert set(result.results[TUNED]["test"]) == {"entity_f1", "tag_accuracy"}
