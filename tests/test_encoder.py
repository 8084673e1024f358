"""Experiments on a model that only reads: a head of its label words, or a cloze."""

import dataclasses
import json

import pytest

import prompt_jax as pj
from prompt_jax import cli
from prompt_jax.config import Config, DataConfig, InputError, TaskConfig, TrainConfig
from prompt_jax.experiment import FROZEN, TUNED, train


def config_for(folder, task_file, tmp_path, labels=("negative", "positive"), **fields):
    task = TaskConfig(labels=labels, **fields.pop("task", {}))
    return Config(
        backbone=str(folder),
        out=str(tmp_path / "run"),
        data=DataConfig(task=f"file:{task_file}", max_source_length=16),
        task=task,
        train=TrainConfig(steps=2, batch_size=4, eval_every=1),
        **fields,
    )


@pytest.fixture
def yes_or_no(task_file):
    text = task_file.read_text().replace("positive", "yes").replace("negative", "no")
    task_file.write_text(text)
    return task_file


def test_the_mask_is_the_tokenizers(bert_folder):
    backbone = pj.load_backbone(bert_folder)
    assert backbone.config.mask_token_id == 4


def test_a_head_of_the_label_words(bert_folder, yes_or_no, tmp_path, capsys):
    config = config_for(bert_folder, yes_or_no, tmp_path, ("no", "yes"), method=pj.LoraConfig(r=2))
    result = train(config, say=lambda line: None)
    assert result.results.keys() == {"majority", TUNED}
    method = result.prompt.method
    assert (method.task_type, method.num_labels) == ("SEQ_CLS", 2)
    assert method.target_modules == ("query", "value")
    assert {"report.md", "curve.png"} <= {path.name for path in result.folder.iterdir()}

    source = tmp_path / "in.txt"
    source.write_text("good film\nbad film\n")
    out = tmp_path / "out.jsonl"
    arguments = ["--prompt", str(result.folder), "--backbone", str(bert_folder)]
    assert cli.main(["predict", *arguments, "--input", str(source), "--output", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [set(row["scores"]) for row in rows] == [{"no", "yes"}] * 2
    assert all(sum(row["scores"].values()) == pytest.approx(1, abs=1e-3) for row in rows)
    assert cli.main(["evaluate", *arguments, "--data.task", f"file:{yes_or_no}"]) == 0
    assert "majority" in capsys.readouterr().out


def test_a_cloze_has_no_head(bert_folder, yes_or_no, tmp_path):
    task = {"source": "[MASK] {input}", "target": "{target}"}
    config = config_for(bert_folder, yes_or_no, tmp_path, ("no", "yes"), task=task)
    result = train(config, say=lambda line: None)
    assert result.results.keys() == {"majority", FROZEN, TUNED}
    assert result.prompt.method.num_labels is None and list(result.prompt.arrays) == ["prompt"]


@pytest.mark.slow
def test_compare_measures_methods_with_heads(bert_folder, yes_or_no, tmp_path, capsys):
    out = tmp_path / "compare"
    arguments = ["compare", "--backbone", str(bert_folder), "--data.task", f"file:{yes_or_no}"]
    arguments += ["--task.labels", "no", "yes", "--train.steps", "2", "--train.batch-size", "4"]
    arguments += ["--data.max-source-length", "16", "--out", str(out), "--methods", "head,lora"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in ("majority", "head", "lora"))


BAD = {
    "no labels": (
        {"labels": (), "task": {"kind": "generation"}},
        "chooses among label words and task .* has none",
    ),
    "other labels": (
        {"method": pj.LoraConfig(task_type="SEQ_CLS", num_labels=3)},
        "num_labels is 3 and task .* has 2 label words",
    ),
    "tags": (
        {"method": pj.LoraConfig(task_type="TOKEN_CLS", num_labels=3)},
        "TOKEN_CLS answers a tagging and task .* is a classification; set task.kind to .tagging",
    ),
    "states": (
        {"method": pj.LoraConfig(task_type="FEATURE_EXTRACTION")},
        "no loss for task_type FEATURE_EXTRACTION: use prompt_jax.PromptTuningModel",
    ),
    "unknown words": (
        {"labels": ("positive", "negative")},
        "'positive' and 'negative' are the same tokens to this backbone",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_an_encoder_cannot_learn(case, bert_folder, task_file, tmp_path):
    fields, message = BAD[case]
    labels = fields.get("labels", ("positive", "negative"))
    config = config_for(bert_folder, task_file, tmp_path, **{**fields, "labels": labels})
    with pytest.raises(InputError, match=message):
        train(config, say=lambda line: None)


def test_a_head_serves_one_task(bert_folder, yes_or_no, tmp_path):
    config = config_for(bert_folder, yes_or_no, tmp_path, (), method=pj.LoraConfig(r=2))
    second = tmp_path / "second.tsv"
    second.write_text(yes_or_no.read_text())
    data = DataConfig(task=config.data.task, mixture=(f"file:{second}",))
    with pytest.raises(InputError, match="a head answers one task, and data.mixture names 1 more"):
        train(dataclasses.replace(config, data=data), say=lambda line: None)


def test_a_training_text_of_two_masks(bert_folder, yes_or_no, tmp_path):
    line = yes_or_no.read_text().count("\n") + 1
    yes_or_no.write_text(yes_or_no.read_text() + "good [MASK]\tyes\n")
    task = {"source": "{input} [MASK]", "target": "{target}"}
    config = config_for(bert_folder, yes_or_no, tmp_path, ("no", "yes"), task=task)
    # A row that is held out is found by the first evaluation.
    with pytest.raises(InputError, match=f"line {line} has 2 masks and backbone .* fills one"):
        train(config, say=lambda line: None)


def test_a_text_longer_than_the_context(bert_folder, yes_or_no, tmp_path):
    yes_or_no.write_text(yes_or_no.read_text() + f"{'good ' * 60}\tyes\n")
    config = config_for(bert_folder, yes_or_no, tmp_path, ("no", "yes"))
    data = dataclasses.replace(config.data, max_source_length=64)
    message = r"prompt, input and target are \d+ tokens long .* over the 40 of"
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(config, data=data), say=lambda line: None)
