"""One experiment from config to saved prompt, on a model small enough for seconds."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from test_disk import full_disk

from prompt_jax import cli
from prompt_jax.config import Config, DataConfig, EvalConfig, InputError, TaskConfig, TrainConfig
from prompt_jax.disk import DiskFullError
from prompt_jax.experiment import FROZEN, TUNED, compare_methods, load_data, train
from prompt_jax.experiment.choice import Judgement, unjudged
from prompt_jax.methods import MultitaskPromptConfig
from prompt_jax.metrics import Scores
from prompt_jax.prompts import load_prompt
from prompt_jax.runs import read_metrics


@pytest.fixture
def config(tmp_path, tiny_folder, task_file):
    return Config(
        backbone=str(tiny_folder),
        out=str(tmp_path / "run"),
        data=DataConfig(task=f"file:{task_file}"),
        train=TrainConfig(steps=6, batch_size=8, eval_every=3, checkpoint_every=2),
        eval=EvalConfig(batch_size=8, max_new_tokens=4),
    )


def test_a_run_leaves_everything_it_says(config, tmp_path):
    lines = []
    # Targets that repeat would be label words.
    config = dataclasses.replace(config, task=TaskConfig(kind="generation"))
    result = train(config, say=lines.append)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"prompt", "checkpoints", "config.json", "metrics.jsonl", "metrics.csv"}
    assert names >= {"curve.png", "report.md"}
    assert result.prompt is not None
    assert load_prompt(tmp_path / "run").digest == result.prompt.digest
    assert result.results.keys() == {"copy input", FROZEN, TUNED}
    text = "\n".join(lines)
    assert "backbone bit-identical before and after: sha256" in text
    assert "36 train, 4 validation" in text
    assert "Neighbours are not explanations" in (tmp_path / "run/report.md").read_text()
    assert lines[-1].panel.facts["saved in"] == str(tmp_path / "run/prompt")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(7))
    assert [row["step"] for row in rows if "validation/exact_match" in row] == [0, 3, 6]


def test_a_mistake_before_the_first_step_leaves_the_old_run(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.md").write_text("of the old run")

    def say(line):
        if line.startswith("scoring: "):
            raise InputError("these rows cannot be scored")

    with pytest.raises(InputError, match="cannot be scored"):
        train(config, overwrite=True, say=say)
    assert (tmp_path / "run" / "report.md").read_text() == "of the old run"


def test_patience_stops_early(config):
    patient = dataclasses.replace(
        config, train=dataclasses.replace(config.train, steps=60, patience=1, learning_rate=0.0)
    )
    patient, lines = dataclasses.replace(patient, out=f"{config.out} of/mine"), []
    train(patient, say=lines.append)
    rows = open(f"{patient.out}/metrics.jsonl").read().splitlines()
    assert json.loads(rows[-1])["step"] == 3
    panel = lines[-1].panel
    assert panel.facts["prompt"].endswith("best step 0 of 3")
    assert panel.commands[-1] == f"prompt-jax prompts inspect '{patient.out}'"


@pytest.mark.slow
def test_a_mixture_gives_every_task_its_part(config, tmp_path, task_file, capsys):
    other = tmp_path / "other.tsv"
    rows = task_file.read_text().splitlines()
    other.write_text("\n".join([rows[0], *(row.upper() for row in rows[1:31])]) + "\n")
    method = MultitaskPromptConfig(num_virtual_tokens=3, num_tasks=2)
    data = dataclasses.replace(config.data, mixture=(f"file:{other}",))
    lines = []
    result = train(dataclasses.replace(config, method=method, data=data), say=lines.append)
    text = "\n".join(lines)
    assert "36 train, 4 validation" in text and "27 train, 3 validation" in text
    assert "validation mean " in text
    assert len(result.results[TUNED]) == 2
    assert all(name.endswith(".tsv validation") for name in result.results[TUNED])
    folders = sorted((tmp_path / "run/tasks").iterdir())
    parts = [load_prompt(folder) for folder in folders]
    assert {part.task.name for part in parts} == {data.task, f"file:{other}"}
    for part in parts:
        which = int(part.task.name != data.task)
        np.testing.assert_allclose(part.rows, result.prompt.injection(which).prompt, atol=1e-6)
        assert part.recipe["data"]["task"] == part.task.name and part.metrics
    assert cli.main(["evaluate", "--prompt", str(folders[0])]) == 0
    assert cli.main(["evaluate", "--prompt", str(tmp_path / "run")]) == 2
    assert "2 tasks, and none is named; give --task-id" in capsys.readouterr().err
    named = ["evaluate", "--prompt", str(tmp_path / "run"), "--task-id", f"file:{other}"]
    assert cli.main(named) == 0


def test_one_prompt_may_serve_a_mixture(config, tmp_path, task_file):
    other = tmp_path / "other.tsv"
    other.write_text(task_file.read_text())
    data = dataclasses.replace(config.data, mixture=(f"file:{other}",))
    train(dataclasses.replace(config, data=data), say=lambda line: None)
    assert load_prompt(tmp_path / "run").recipe["data"]["mixture"] == [f"file:{other}"]
    assert not (tmp_path / "run/tasks").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": MultitaskPromptConfig(num_tasks=3)}, "num_tasks is 3 and .* are 1 task"),
        ({"data": {"mixture": ("file:b.tsv",)}, "task": TaskConfig(labels=("a", "b"))}, "describe"),
        (
            {"data": {"mixture": ("file:b.tsv",)}, "train": TrainConfig(objective="labels")},
            'objective="labels" compares the label words of one task',
        ),
    ],
)
def test_a_mixture_that_cannot_be(config, changes, message):
    if "data" in changes:
        changes = {**changes, "data": dataclasses.replace(config.data, **changes["data"])}
    with pytest.raises(InputError, match=message):
        dataclasses.replace(config, **changes)


def test_tasks_of_a_mixture_differ_and_have_their_own_splits():
    with pytest.raises(InputError, match="names each task once, got a, b, a"):
        DataConfig(task="a", mixture=("b", "a"))
    alike = {
        "match": "the prompts of file:x/y.csv and file:x-y.csv would share one folder, file-x-y"
    }
    with pytest.raises(InputError, **alike):
        DataConfig(tasks=("file:x/y.csv", "file:x-y.csv"))
    with pytest.raises(InputError, **alike):
        DataConfig(task="a", mixture=("file:x/y.csv", "file:x-y.csv"))
    with pytest.raises(InputError, match="data.validation and data.test are of one task"):
        DataConfig(task="a", mixture=("b",), test="c")


def test_one_task_where_one_is_meant(config, tmp_path):
    several = dataclasses.replace(
        config, data=dataclasses.replace(config.data, mixture=("file:b.tsv",))
    )
    with pytest.raises(InputError, match="compare is for one task, and data.mixture names file:b"):
        compare_methods(several, [several.method])


def test_no_validation_split_is_held_out(config):
    data = load_data(config)
    assert len(data.train) == 36 and len(data.validation) == 4 and not data.tests
    assert not set(data.train) & set(data.validation)
    again = load_data(config)
    assert again == data


def test_too_few_rows_to_hold_out(config, tmp_path):
    path = tmp_path / "few.tsv"
    path.write_text("input\ttarget\na\tb\n")
    few = dataclasses.replace(config, data=DataConfig(task=f"file:{path}"))
    with pytest.raises(InputError, match="no validation split and 1 rows.*--data.validation"):
        train(few)
    assert not os.listdir(config.out), "nothing but the empty folder was made"


def test_a_backbone_without_tokenizer_is_refused(config):
    with pytest.raises(InputError, match="'t5_1_1_tiny'"):
        train(dataclasses.replace(config, backbone="t5_1_1_tiny"))


def test_a_prompt_that_is_not_finite_is_never_the_best():
    best = unjudged({"prompt": np.zeros(2)})._replace(score=np.float32(0.1))
    right = Judgement(Scores({"accuracy": 1.0}, "accuracy"), 0.0)
    best = best.after(right, {"prompt": np.array([0.0, np.nan])}, 3)
    assert (best.step, best.since) == (0, 1)
    best = best.after(right, {"prompt": np.ones(2)}, 6)
    assert (best.step, best.since) == (6, 0)


def test_a_run_outlives_ctrl_c_other_processes_and_a_full_disk(config, tmp_path):
    def say(line):
        if line.startswith("step      3  validation"):
            for option in ({"resume": True}, {"overwrite": True}):
                with pytest.raises(InputError, match="run is in use by another process"):
                    train(config, **option)
            signal.raise_signal(signal.SIGINT)

    assert train(config, say=say).prompt is None
    with full_disk(20), pytest.raises(DiskFullError, match="run the command again with --resume"):
        train(config, resume=True, say=lambda _: None)
    assert train(config, resume=True, say=lambda _: None).prompt is not None
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == list(range(7))


def uninterrupted(config, folder):
    whole = dataclasses.replace(config, out=str(folder))
    return train(whole, say=lambda line: None).prompt.rows


@pytest.mark.slow
def test_stopped_by_a_signal_and_resumed_is_never_stopped(config, tmp_path):
    stopping = dataclasses.replace(config, train=dataclasses.replace(config.train, dropout=0.1))

    def say(line):
        if line.startswith("step      3  validation"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    lines = []
    assert train(stopping, say=say).prompt is None
    resumed = train(stopping, resume=True, say=lines.append).prompt
    assert any("resuming after step" in line for line in lines)
    np.testing.assert_array_equal(resumed.rows, uninterrupted(stopping, tmp_path / "whole"))
    tables = [read_metrics(tmp_path / name) for name in ("run", "whole")]
    timeless = [[{**row, "examples_per_second": 0} for row in rows[1:]] for rows in tables]
    assert timeless[0] == timeless[1]


def command(config, *flags):
    code = "import sys; from prompt_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [
        "train",
        f"--backbone={config.backbone}",
        f"--out={config.out}",
        f"--data.task={config.data.task}",
        f"--train.steps={config.train.steps}",
        f"--train.batch-size={config.train.batch_size}",
        f"--train.eval-every={config.train.eval_every}",
        f"--train.checkpoint-every={config.train.checkpoint_every}",
        "--eval.batch-size=8",
        "--eval.max-new-tokens=4",
        *flags,
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
@pytest.mark.parametrize("steps", [2, 50])
def test_a_profile_of_some_steps_is_written(config, tmp_path, steps):
    """In a process of its own: libtpu, once a test has loaded it, crashes JAX's profiler.

    A run of fewer steps ends its profile.
    """
    process = command(config, f"--profile={steps}")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert f"profile in {tmp_path}/run/profile: tensorboard --logdir" in output
    (trace,) = (tmp_path / "run/profile").rglob("*.trace.json.gz")
    assert trace.stat().st_size > 100


def test_a_profile_has_steps(config):
    with pytest.raises(InputError, match="profile must be at least 0, got -1"):
        train(config, profile=-1)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_killed_at_any_moment_resumes_to_the_same_prompt(config, tmp_path):
    """Two kills with SIGKILL at random moments of a 100-step run."""
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, steps=100, checkpoint_every=10, eval_every=50),
    )
    rng = np.random.default_rng(0)
    kills = 0
    process = command(config)
    while kills < 2:
        steps = rng.integers(1, 9)
        wait_for_steps(process, config, steps)
        time.sleep(rng.uniform(0, 0.02))
        assert process.poll() is None, process.stdout.read()
        process.kill()
        process.wait()
        kills += 1
        process = command(config, "--resume")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    rows = load_prompt(config.out).rows
    whole = dataclasses.replace(config, out=str(tmp_path / "whole"))
    output, _ = command(whole).communicate(timeout=600)
    np.testing.assert_array_equal(rows, load_prompt(whole.out).rows, err_msg=output)


def wait_for_steps(process, config, steps):
    """Waits until the process has made so many steps of its own."""
    path = f"{config.out}/metrics.jsonl"
    deadline = time.monotonic() + 120
    first = None
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
        try:
            count = sum(1 for _ in open(path))
        except FileNotFoundError:
            continue
        begun = os.path.getmtime(path) > time.time() - 5
        if begun and first is None:
            first = count
        if first is not None and count >= first + steps:
            return


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_sigterm_exits_with_zero_and_says_how_to_go_on(config):
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=5000))
    process = command(config)
    threading.Timer(240, process.kill).start()
    wait_for_steps(process, config, 3)
    process.terminate()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "stopped after step" in output and "--resume" in output


def test_bad_input_leaves_no_traceback(config, capsys):
    usual = {"--backbone": config.backbone, "--data.task": config.data.task, "--out": config.out}
    for flags, message in (
        ({"--backbone": "embeded"}, "embedded"),
        ({"--data.task": "embedded:sentimet"}, "Perhaps you meant 'embedded:sentiment'"),
        ({"--data.task": "file:nowhere.tsv"}, "nowhere.tsv"),
        ({"--task.source": "{text}"}, "input"),
        ({"--task.labels": "good,bad"}, "not a label word"),
    ):
        flags = [f"{name}={value}" for name, value in {**usual, **flags}.items()]
        assert cli.main(["train", *flags]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and "Traceback" not in error
