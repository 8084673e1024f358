import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from prompt_jax import config as c

NAN, INF = float("nan"), float("inf")
MULTITASK = c.MultitaskPromptConfig(combine="add", num_ranks=2)


def test_json_round_trip():
    config = c.Config(
        out="x",
        method=c.PromptTuningConfig(init="class_labels", init_labels=("a", "b")),
        task=c.TaskConfig(source="{a}", metrics=("chrf",)),
    )
    assert c.from_json(c.Config, c.to_json(config)) == config


def test_values_of_numpy_lists_and_paths_become_plain():
    train = c.TrainConfig(steps=np.int64(5), learning_rate=np.float32(0.5))
    config = c.Config(out=Path("runs"), train=train, data=c.DataConfig(tasks=["file:a", "file:b"]))
    assert json.loads(json.dumps(c.to_json(config)))["train"]["learning_rate"] == 0.5
    assert (config.out, config.train.steps) == ("runs", 5)
    assert c.from_json(c.Config, c.to_json(config)) == config
    with pytest.raises(c.InputError, match="TrainConfig has steps as int, got '5.0'"):
        c.TrainConfig(steps=5.0)


def test_differences_name_field_old_and_new():
    old, new = c.Config(), c.Config(train=c.TrainConfig(steps=7), backbone="x")
    assert c.differences(old, new) == ["backbone: 'embedded' -> 'x'", "train.steps: 300 -> 7"]
    assert c.differences(old, c.Config()) == []


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({}, "vocab"),
        ({"init_file": "x.npy"}, "file"),
        ({"init_text": "a film"}, "text"),
        ({"init_labels": ("good", "bad")}, "class_labels"),
        ({"init_scale": 0.1}, "random"),
        # What a sweep over starts has, and what an older version saved.
        ({"init_text": "a film", "init": "vocab"}, "vocab"),
    ],
)
def test_an_option_of_a_start_chooses_it(options, start):
    method = c.PromptTuningConfig(**options)
    assert method.start == start
    assert c.from_json(c.MethodConfig, c.to_json(method)) == method


def test_a_saved_method_is_read_with_options_that_do_not_count():
    method = c.PTuningConfig(encoder_dropout=0.1)
    assert c.from_json(c.MethodConfig, c.to_json(method)) == method


@pytest.mark.parametrize(
    ("train", "optimizer", "rate"),
    [
        (c.TrainConfig(), "adamw", 5e-3),
        (c.TrainConfig(optimizer="adafactor"), "adafactor", 5e-3),
        (c.TrainConfig(learning_rate=0.05), "adamw", 0.05),
        (c.TrainConfig(optimizer="adafactor", learning_rate=0.0), "adafactor", 0.0),
    ],
)
def test_a_method_that_replaces_another_trains_as_if_it_had_been_the_first(train, optimizer, rate):
    config = dataclasses.replace(c.Config(train=train), method=c.LoraConfig())
    assert config == c.Config(train=train, method=c.LoraConfig()) and config.train == train
    run = c.resolved(config, 1.0)
    assert (run.train.optimizer, run.train.learning_rate) == (optimizer, rate)
    assert c.resolved(run) == c.resolved(run, 1.0) == run


@pytest.mark.parametrize("name", ["seq_2_seq_lm", "Seq_2_Seq_LM"])
def test_task_types_in_any_case(name):
    assert c.PromptTuningConfig(task_type=name).task_type == "SEQ_2_SEQ_LM"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: c.PromptTuningConfig(num_virtual_tokens=0), "at least 1, got 0; .* prompt=None"),
        (lambda: c.PromptTuningConfig(task_type="SEQ2SEQ"), "unknown task_type.*SEQ_2_SEQ_LM"),
        (lambda: c.PromptTuningConfig(init="vocabulary"), "unknown init.*meant 'vocab'"),
        (lambda: c.PromptTuningConfig(placement="front"), "unknown placement 'front'; allowed"),
        (lambda: c.PromptTuningConfig(init="file"), "needs init_file"),
        (
            lambda: c.PromptTuningConfig(init_file="x.npy", init_text="a"),
            'init_text and init_file are given; say which one counts: init="text" or "file"',
        ),
        (
            lambda: c.PrefixTuningConfig(init_text="a", prefix_projection=True),
            'init="text" sets keys and values, and prefix_projection computes them',
        ),
        (
            lambda: c.TrainConfig(margin=0.5),
            "train.margin is 0.5 and only train.objective='perceptron' reads it; set that, or",
        ),
        (lambda: c.EvalConfig(length_penalty=2.0), "length_penalty is 2.0 and only beams read it"),
        (
            lambda: c.Config(method=c.PTuningConfig(encoder_dropout=0.1)),
            "method.encoder_dropout is 0.1 and only method.encoder_reparameterization_type='LSTM'",
        ),
        (
            lambda: c.Config(method=c.PTuningV2Config(encoder_hidden_size=8)),
            "method.encoder_hidden_size is 8 and only method.prefix_projection=True reads it",
        ),
        (
            lambda: c.Config(method=c.UnionConfig(methods=(MULTITASK, c.LoraConfig()))),
            "method.num_ranks is 2 and only method.combine='multiply' reads it",
        ),
        (lambda: c.LoraConfig(lora_alpha=float("inf")), "lora_alpha must be a number other than 0"),
        (lambda: c.PromptTuningConfig(init_population=0), "init_population must be at least 1"),
        (lambda: c.TaskConfig(metrics=("acuracy",)), "unknown metric.*meant 'accuracy'"),
        (lambda: c.DataConfig(max_source_length=0), "max_source_length must be at least 1"),
        (lambda: c.DataConfig(max_target_length=0), "max_target_length must be at least 1"),
        (lambda: c.DataConfig(max_examples=0), "max_examples must be at least 1"),
        (lambda: c.DataConfig(max_test_examples=0), "max_test_examples must be at least 1"),
        (lambda: c.TrainConfig(optimizer="adam"), "unknown optimizer 'adam'.*meant 'adamw'"),
        (lambda: c.TrainConfig(schedule="cosin"), "unknown schedule.*meant 'cosine'"),
        (lambda: c.TrainConfig(steps=0), "train.steps must be at least 1"),
        (lambda: c.TrainConfig(warmup_steps=-1), "train.warmup_steps must be at least 0"),
        (lambda: c.TrainConfig(learning_rate=-1.0), "train.learning_rate must be at least 0"),
        (
            lambda: c.TrainConfig(batch_size=10, accumulate=3),
            "multiple of train.accumulate, got 10",
        ),
        (lambda: c.TrainConfig(dropout=1.0), r"train.dropout must be in \[0, 1\), got 1.0"),
        (lambda: c.TrainConfig(patience=0), "train.patience must be at least 1"),
        (lambda: c.TrainConfig(eval_examples=0), "train.eval_examples must be at least 1"),
        (lambda: c.TrainConfig(learning_rate=NAN), "train.learning_rate must be a finite number"),
        (lambda: c.TrainConfig(weight_decay=INF), "train.weight_decay must be a finite number"),
        (
            lambda: c.DistilConfig(temperature=NAN),
            "distil.temperature must be at least 0.01, got n",
        ),
        (
            lambda: c.EvalConfig(num_beams=2, length_penalty=INF),
            "eval.length_penalty must be a finite number, got inf",
        ),
        (
            lambda: c.EvalConfig(temperature=NAN),
            "eval.temperature must be a finite number, got nan",
        ),
        (lambda: c.EvalConfig(num_beams="2"), "EvalConfig has num_beams as int, got '2'"),
        (lambda: c.EvalConfig(temperature=1e-9), "1e-06 to draw tokens, got 1e-09; 0 is greedy"),
        (lambda: c.EvalConfig(num_beams=0), "eval.num_beams must be at least 1"),
        (lambda: c.BackboneConfig(dtype="fp16"), "unknown dtype 'fp16'"),
        (lambda: c.BackboneConfig(remat="some"), "unknown remat 'some'"),
        (lambda: c.BackboneConfig(remat_beyond=8), "frozen.remat is none; use full or auto"),
        (lambda: c.Config(out=""), "out is empty"),
        (
            lambda: c.Config(data=c.DataConfig(max_source_length=1010)),
            r"1030 tokens long \(20 \+ 1010\), 6 over data.max_total_length 1024; lower",
        ),
        (lambda: c.from_json(c.TrainConfig, {"stpes": 1}), "unknown field.*meant 'steps'"),
    ],
)
def test_bad_values_say_what_was_got_and_what_is_allowed(make, message):
    with pytest.raises(c.InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "optimizer", "size", "rate"),
    [
        (c.PromptTuningConfig(), None, 1.519, 0.3),  # The embedded T5.
        (c.PromptTuningConfig(), None, 0.1356, 0.11),  # SmolLM2.
        (c.PromptTuningConfig(), "adamw", 0.056, 0.0071),  # MiniLM.
        (c.LoraConfig(), None, 0.056, 5e-3),
        (c.PTuningConfig(), None, 0.056, 5e-3),
    ],
)
def test_the_rate_of_rows_falls_with_the_size_of_words(method, optimizer, size, rate):
    config = c.Config(method=method, train=c.TrainConfig(optimizer=optimizer))
    assert c.resolved(config).train.learning_rate is None
    assert c.resolved(config, size).train.learning_rate == rate
