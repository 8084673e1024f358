import dataclasses
import json

import pytest

from prompt_jax.config import Config, InputError, TrainConfig
from prompt_jax.runs import Metrics, begin_run, check_run, read_config, read_inputs


@pytest.fixture
def config(tmp_path):
    return Config(out=str(tmp_path / "run"))


def begun(config):
    folder = check_run(config)
    begin_run(folder, config)
    return folder


def test_config_is_written_and_read(config):
    assert read_config(begun(config)) == config


def test_an_existing_run_needs_a_word(config):
    folder = begun(config)
    with pytest.raises(InputError, match="is not empty; continue its run with --resume, replace"):
        check_run(config)
    assert check_run(config, overwrite=True) == folder
    assert (folder / "config.json").is_file(), "checking removes nothing"
    assert check_run(config, resume=True) == folder


def test_overwrite_removes_runs_only(config):
    folder = begun(config)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds thesis.tex, which no run writes"):
        check_run(config, overwrite=True)


def test_overwrite_removes_what_a_killed_run_had_not_finished(config):
    folder = begun(config)
    (folder / "seeds").mkdir()
    (folder / ".0123abcd.curve.png").write_text("half a pic")
    assert check_run(config, overwrite=True) == folder
    (folder / ".0123abcd.thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds .0123abcd.thesis.tex, which no run writes"):
        check_run(config, overwrite=True)


def test_overwrite_starts_empty(config):
    folder = begun(config)
    (folder / "metrics.jsonl").write_text("{}\n")
    begin_run(check_run(config, overwrite=True), config)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_resume_with_a_changed_config_names_the_fields(config):
    begun(config)
    changed = dataclasses.replace(config, train=TrainConfig(learning_rate=0.5, seed=3))
    message = "another config: train.learning_rate: None -> 0.5; train.seed: 0 -> 3"
    with pytest.raises(InputError, match=message):
        check_run(changed, resume=True)


def test_a_constant_rate_may_be_resumed_for_longer(config):
    folder = begun(dataclasses.replace(config, train=TrainConfig(schedule="constant")))
    longer = dataclasses.replace(config, train=TrainConfig(schedule="constant", steps=999))
    assert check_run(longer, resume=True) == folder
    begin_run(folder, config)
    longer = dataclasses.replace(config, train=TrainConfig(steps=999))
    with pytest.raises(InputError, match="train.steps: 300 -> 999"):
        check_run(longer, resume=True)


def test_a_run_is_resumed_for_no_fewer_steps_than_it_has_made(config):
    constant = TrainConfig(schedule="constant", steps=9)
    folder = begun(dataclasses.replace(config, train=constant))
    (folder / "checkpoints" / "4").mkdir(parents=True)
    (folder / "checkpoints" / "8.orbax-checkpoint-tmp").mkdir()
    for steps in (4, 8):
        fewer = dataclasses.replace(config, train=dataclasses.replace(constant, steps=steps))
        assert check_run(fewer, resume=True) == folder
    with pytest.raises(InputError, match=r"train.steps: 9 -> 3"):
        fewer = dataclasses.replace(config, train=dataclasses.replace(constant, steps=3))
        check_run(fewer, resume=True)


def test_a_run_is_resumed_with_the_inputs_that_it_began_with(config):
    folder = check_run(config)
    begin_run(folder, config)  # As by a version that kept no inputs.
    assert not read_inputs(folder)
    inputs = {"the model": "a", "the data of x": "b"}
    begin_run(folder, config, resume=True, inputs=inputs)
    begin_run(folder, config, resume=True, inputs={"the model": "a"})
    assert read_inputs(folder) == inputs
    message = "another content of the model, the data of x. Resume with what it was started"
    with pytest.raises(InputError, match=message):
        begin_run(folder, config, resume=True, inputs={"the model": "c", "the data of x": "d"})
    assert read_inputs(folder) == inputs
    begin_run(check_run(config, overwrite=True), config, inputs={"the model": "c"})
    assert read_inputs(folder) == {"the model": "c"}


def test_resume_without_a_run(config):
    with pytest.raises(InputError, match="holds no run to resume"):
        check_run(config, resume=True)


def test_resume_from_a_damaged_config(config):
    folder = begun(config)
    (folder / "config.json").write_text('{"backbone": ')
    with pytest.raises(InputError, match=r"config.json is damaged \(.*start again"):
        check_run(config, resume=True)


def test_resume_and_overwrite_exclude_each_other(config):
    with pytest.raises(InputError, match="exclude each other"):
        check_run(config, resume=True, overwrite=True)


def test_out_is_a_file_or_cannot_be_written(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(InputError, match="is a file; give a folder"):
        check_run(Config(out=str(path)))
    with pytest.raises(InputError, match="cannot write .*; give another --out"):
        check_run(Config(out="/proc/prompt_jax/run"))


def test_metrics_are_cut_back_to_the_step_resumed(tmp_path):
    metrics = Metrics(tmp_path)
    for step in range(4):
        metrics.add({"step": step, "loss": 1.0 / (step + 1)})
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    metrics = Metrics(tmp_path, step=2)
    metrics.add({"step": 3, "validation/accuracy": 0.5})
    metrics.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3] and "loss" not in rows[3]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,loss,validation/accuracy" and lines[-1] == "3,,0.5"


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = Metrics(tmp_path, loggers=["tensorboard"])
    metrics.add({"step": 5, "loss": 2.0})
    metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [tag for kind in events.Tags().values() if isinstance(kind, list) for tag in kind] == [
        "loss"
    ]


def test_a_rate_left_open_is_that_of_the_run(config):
    known = dataclasses.replace(config, train=TrainConfig(learning_rate=0.11))
    folder = begun(known)
    assert check_run(config, resume=True) == folder, "the backbone is not loaded yet"
    begin_run(folder, known, resume=True)
    other = dataclasses.replace(config, train=TrainConfig(learning_rate=0.3))
    with pytest.raises(InputError, match=r"another config: train.learning_rate: 0.11 -> 0.3"):
        begin_run(folder, other, resume=True)
