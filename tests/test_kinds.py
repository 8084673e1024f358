"""Regression and multiple choice, from a file of rows to predictions."""

import dataclasses
import json

import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax import cli
from prompt_jax.answers import answer, multiple_choice, regression
from prompt_jax.config import Config, DataConfig, EvalConfig, InputError, TaskConfig, TrainConfig
from prompt_jax.data import encode, encode_targets, pad
from prompt_jax.experiment import TUNED, train
from prompt_jax.generate import score
from prompt_jax.tasks import Example, Task, resolve, to_example, to_source

NUMBERS = Task(name="t", source="{input}", target="{target}", kind="regression")
CHOICE = Task(
    name="t", source="{premise}", target="{label}", kind="multiple_choice", labels=("{a}", "{b}")
)
ENDINGS = dataclasses.replace(CHOICE, labels=("{endings}",))
ROW = {"premise": "the film", "a": "was good", "b": "was a very bad film", "label": 1}


def test_a_number_of_a_row_counts_candidates():
    """Whatever numbers the candidates are; digits in a text may be either."""
    row = {"premise": "7-5?", "endings": ["3", "1", "0", "2"]}
    targets = [to_example(ENDINGS, row | {"label": label}).target for label in (3, 2.0, "1")]
    assert targets == ["2", "0", "1"]
    with pytest.raises(InputError, match="'3' is a candidate, and also the number of another one"):
        to_example(ENDINGS, row | {"label": "3"})


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def predictions(run, backbone, tmp_path, rows):
    """What predict writes to rows."""
    output = tmp_path / "out.jsonl"
    named = ["--input", str(written(tmp_path / "in.jsonl", rows)), "--output", str(output)]
    arguments = ["--prompt", str(run), "--backbone", str(backbone), "--overwrite"]
    assert cli.main(["predict", *arguments, *named]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.slow
def test_numbers_are_learned(bert_folder, tmp_path, capsys):
    rows = [
        {"input": f"{'good' if i % 3 else 'bad'} film {i}", "target": 2.5 if i % 3 else -1}
        for i in range(40)
    ]
    task = f"file:{written(tmp_path / 'rows.jsonl', rows)}"
    config = Config(
        backbone=str(bert_folder),
        out=str(tmp_path / "run"),
        method=pj.FullConfig(),
        data=DataConfig(task=task, max_source_length=16, test=task),
        task=TaskConfig(kind="regression"),
        train=TrainConfig(
            steps=300, batch_size=8, eval_every=300, optimizer="adamw", learning_rate=1e-2
        ),
    )
    result = train(config, say=lambda line: None)
    method = result.prompt.method
    assert (method.task_type, method.num_labels) == ("SEQ_CLS", 1)
    assert result.results[TUNED]["test"]["pearson"] > 0.99
    assert result.results["mean"]["test"] == {"pearson": 0.0, "spearman": 0.0}
    rows = [{"input": "bad film 3"}, {"input": "good film 4"}]
    answers = predictions(result.folder, bert_folder, tmp_path, rows)
    values = [float(row["prediction"]) for row in answers]
    np.testing.assert_allclose(values, [-1, 2.5], atol=0.7)
    assert "scores" not in answers[0]

    # Called as Transformers' models are, with the mean squared error as the loss.
    backbone = pj.load_backbone(bert_folder)
    model = pj.PromptTuningModel.from_pretrained(backbone, result.prompt)
    texts = backbone.tokenizer(["bad film", "good film"], return_tensors="np", padding=True)
    out = model(texts["input_ids"], texts["attention_mask"], labels=[-1.0, 2.0])
    errors = np.asarray(out.logits)[:, 0] - [-1.0, 2.0]
    assert float(out.loss) == pytest.approx(float(np.mean(errors**2)), rel=1e-5)
    with pytest.raises(InputError, match="labels must be numbers of shape"):
        model(texts["input_ids"], texts["attention_mask"], labels=[[1.0, 2.0]])


def test_how_likely_numbers_are(tiny_backbone):
    tokenizer, results = tiny_backbone.tokenizer, [np.array([1.0]), np.array([4.0])]
    answers = regression.answers(NUMBERS, tokenizer, results, ["a", "b"], [])
    assert answers.predictions == ["1", "4"]
    examples = [Example("a", "2"), Example("b", "4")]
    assert regression.likelihood(answers, examples, NUMBERS) == -0.25


def test_candidates_are_ranked_as_each_one_is_scored(tiny_backbone):
    """Rows with two and with three candidates, in one batch and alone."""
    rows = [ROW, {**ROW, "premise": "a much longer premise of a film", "b": "was fun"}]
    sources = [to_source(CHOICE, row) for row in rows]
    sources.append(to_source(ENDINGS, {"premise": "x", "endings": ["a b", "c", "d e f"]}))
    data, options = DataConfig(), EvalConfig(batch_size=4)
    answers = answer(tiny_backbone, None, sources, CHOICE, data=data, eval=options)
    assert np.isneginf(answers.scores).tolist() == [[False, False, True]] * 2 + [[False] * 3]
    for source, row, prediction in zip(sources, answers.scores, answers.predictions, strict=True):
        tokens = pad(encode(tiny_backbone.tokenizer, [source], 99), 24, 0)
        targets = encode_targets(tiny_backbone.tokenizer, source.candidates, 99)
        alone = score(tiny_backbone, None, *tokens, *pad(targets, max(map(len, targets)), 0))[0]
        np.testing.assert_allclose(row[: len(targets)], alone, rtol=1e-4)
        assert prediction == source.candidates[int(np.argmax(alone))]


def test_a_choice_is_trained_and_predicted(tiny_folder, tmp_path, capsys):
    rows = [{**ROW, "premise": f"film {i}", "label": i % 2} for i in range(40)]
    task = f"file:{written(tmp_path / 'rows.jsonl', rows)}"
    labels = ("{a}", "{b}")
    config = Config(
        backbone=str(tiny_folder),
        out=str(tmp_path / "run"),
        method=pj.PromptTuningConfig(num_virtual_tokens=2),
        data=DataConfig(task=task, test=task),
        task=TaskConfig(
            kind="multiple_choice", source="{premise}", target="{label}", labels=labels
        ),
        train=TrainConfig(steps=2, batch_size=8, eval_every=2),
    )
    result = train(config, say=lambda line: None)
    assert result.prompt.task.labels == labels and result.prompt.task.kind == "multiple_choice"
    assert result.results["first candidate"]["test"] == {"accuracy": 0.5}
    (row,) = predictions(result.folder, tiny_folder, tmp_path, [{**ROW, "label": None}])
    assert row["prediction"] in row["scores"] and row["scores"].keys() == {ROW["a"], ROW["b"]}
    assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-5)
    arguments = ["--prompt", str(result.folder), "--backbone", str(tiny_folder)]
    assert cli.main(["evaluate", *arguments, "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all("accuracy" in metrics for metrics in last["results"][TUNED].values())


def test_the_right_candidate_is_named_or_numbered():
    assert to_example(CHOICE, ROW).target == ROW["b"]
    assert to_example(CHOICE, {**ROW, "label": "0"}).target == ROW["a"]
    assert to_example(CHOICE, {**ROW, "label": "was good"}).target == ROW["a"]
    endings = {"premise": "x", "endings": ["one", "two"], "label": 1.0}
    assert to_example(ENDINGS, endings).target == "two"
    assert to_example(CHOICE, ROW).source.candidates == (ROW["a"], ROW["b"])


REFUSED = [
    (NUMBERS, {"input": "a", "target": "good"}, "row 7: target 'good' is not a number"),
    (NUMBERS, {"input": "a", "target": "inf"}, "row 7: target 'inf' is not a number"),
    (CHOICE, {**ROW, "label": 2}, "row 7: target '2' is none of the candidates was good, was a"),
    (CHOICE, {**ROW, "b": "was good"}, "row 7: the candidates are .* two or more that differ"),
    (CHOICE, {"premise": "x", "a": "y", "label": 0}, "row 7: no column 'b'"),
    (ENDINGS, {"premise": "x", "endings": ["y"], "label": 0}, "a row needs two or more"),
]


@pytest.mark.parametrize(("task", "row", "message"), REFUSED)
def test_rows_that_do_not_fit(task, row, message):
    with pytest.raises(InputError, match=message):
        to_example(task, row, "row 7")


def test_what_cannot_be(tiny_bert, tiny_backbone, bert_folder):
    with pytest.raises(InputError, match="a multiple choice and has no candidates, e.g. .*; set"):
        Task(name="t", source="{a}", target="{b}", kind="multiple_choice")
    options = {"data": DataConfig(), "eval": EvalConfig()}
    with pytest.raises(InputError, match="the text 'plain' has no candidates"):
        answer(tiny_backbone, None, ["plain"], CHOICE, **options)
    backbone = pj.load_backbone(bert_folder)
    with pytest.raises(InputError, match="only reads and cannot rank candidates"):
        multiple_choice.program(backbone, None, CHOICE, **options)


def test_benchmarks_that_rank_candidates():
    piqa = resolve("tfds:piqa", TaskConfig(), ["goal", "sol1", "sol2", "label"])
    assert to_example(piqa, {"goal": "g", "sol1": "s", "sol2": "t", "label": 1}).target == "t"
    hellaswag = resolve("tfds:hellaswag", TaskConfig(), ["context", "endings", "label"])
    row = {"context": "c", "endings": ["a", "b", "c", "d"], "label": 3}
    assert to_example(hellaswag, row).target == "d"
