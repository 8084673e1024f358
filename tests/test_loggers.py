"""Rows of a run in TensorBoard, W&B and MLflow."""

import json
import os
import re
import struct
import subprocess
import sys
import time

import pytest

from prompt_jax.config import InputError, TrainConfig, from_json
from prompt_jax.loggers import IDS, LOGGERS
from prompt_jax.runs import Metrics

REASON = "pip install prompt-jax[%s]; CI does"


def log(folder, name, *steps):
    """Sends a row for each of the steps."""
    with Metrics(folder, step=steps[0] - 1, loggers=[name]) as metrics:
        for step in steps:
            metrics.add({"step": step, "loss": 1.0 / step, "validation/accuracy": 0.5})


@pytest.fixture
def folder(tmp_path):
    """A run folder with a config."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps({"out": "run", "train": {"steps": 4}}))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "tensorboard.summary"), ("wandb",) * 2, ("mlflow",) * 2]
)
def test_a_package_that_is_missing_is_named(name, module, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf'loggers {name} .*pip install "prompt-jax\[{name}\]"'):
        Metrics(folder, loggers=[name])


def test_names_of_loggers():
    assert set(TrainConfig(loggers=tuple(LOGGERS)).loggers) == set(LOGGERS)
    with pytest.raises(InputError, match="unknown logger 'wandbb'.*meant 'wandb'"):
        TrainConfig(loggers=("wandbb",))


def test_a_config_of_an_earlier_version():
    assert from_json(TrainConfig, {"tensorboard": False}) == TrainConfig()
    earlier = from_json(TrainConfig, {"tensorboard": True, "steps": 3})
    assert (earlier.loggers, earlier.steps) == (("tensorboard",), 3)


def records(data):
    """The records of a .wandb file, which is a log of LevelDB behind a header."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # The rest of a block is too short for a record.
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # Whole, or the last part.
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_gets_every_value_offline_and_goes_on(folder, monkeypatch):
    pytest.importorskip("wandb", reason=REASON % "wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log(folder, "wandb", 1, 2)
    log(folder, "wandb", 3)
    rows, end = [], time.monotonic() + 20
    # Its service still writes when `finish` returns.
    while len(rows) < 3 and time.monotonic() < end:
        files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        sent = [Record.FromString(data) for file in files for data in records(file.read_bytes())]
        items = [record.history.item for record in sent if record.HasField("history")]
        rows = [{"/".join(i.nested_key): i.value_json for i in row} for row in items]
    names = {record.run.run_id for record in sent if record.HasField("run")}
    assert names == {json.loads((folder / IDS).read_text())["wandb"]}
    assert [float(row["loss"]) for row in rows] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert all(float(row["validation/accuracy"]) == 0.5 for row in rows)


@pytest.mark.slow
def test_wandb_that_cannot_start_says_what_to_set(folder):
    pytest.importorskip("wandb", reason=REASON % "wandb")
    # A process keeps the mode of its first run of W&B.
    changes = {"WANDB_MODE": "online", "HOME": str(folder), "NETRC": "none", "WANDB_API_KEY": ""}
    code = "from pathlib import Path; from prompt_jax.loggers import open_logger; "
    code += f"open_logger('wandb', Path({str(folder)!r}))"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(
        command, env=os.environ | changes, capture_output=True, text=True, timeout=100
    )
    assert re.search("InputError: W&B cannot start.*WANDB_MODE=offline", ended.stderr), ended.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow has some about Pydantic and its own functions.
def test_mlflow_gets_every_value_and_goes_on(folder, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason=REASON % "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    log(folder, "mlflow", 1, 2)
    log(folder, "mlflow", 3)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("prompt-jax").experiment_id])
    assert run.info.run_id == json.loads((folder / IDS).read_text())["mlflow"]
    assert run.data.params == {"out": "run", "train.steps": "4"} and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
