"""Where a run's metrics go beside its own files: TensorBoard, Weights & Biases, MLflow."""

import abc
import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prompt_jax import disk
from prompt_jax.config import InputError

PROJECT = "prompt-jax"
"""The project of W&B and the experiment of MLflow where their variables name no other."""
IDS = "loggers.json"
"""In a run folder, the runs that a resumed run goes on with, by logger."""


class Logger(abc.ABC):
    """Receives the rows of a run."""

    @abc.abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends what is known of a step."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the run."""


def open_logger(name: str, folder: Path) -> Logger:
    """A logger for the run in a folder, which goes on with the run that it began there.

    Args:
      name: one of `LOGGERS`.
      folder: whose config.json tells the options.

    Raises:
      InputError: its package is not installed, or it cannot start.
    """
    with _installed(name):
        return LOGGERS[name](folder)


@contextlib.contextmanager
def _installed(extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise InputError(
            f'train.loggers {extra} needs a package: pip install "prompt-jax[{extra}]"'
        ) from error


class TensorBoard(Logger):
    """Events in tensorboard/ of the run."""

    def __init__(self, folder: Path):
        from tensorboard.summary import Writer

        self._writer = Writer(str(folder / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes an event for each value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


class WandB(Logger):
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in wandb/ of the run folder."""

    def __init__(self, folder: Path):
        import wandb

        identifier = _id(folder, "wandb") or uuid.uuid4().hex[:8]
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=str(folder),
                dir=str(folder),
                config=_config(folder),
                id=identifier,
                resume="allow",
                # Several prompts that train together have a run each.
                reinit="create_new",
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise InputError(
                f"W&B cannot start: {error} Set WANDB_API_KEY, or WANDB_MODE=offline to send the "
                "run later with wandb sync"
            ) from error
        _keep_id(folder, "wandb", identifier)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the values under the step of the run."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Waits until all is sent, or written."""
        self._run.finish()


class MLflow(Logger):
    """A run of MLflow, at MLFLOW_TRACKING_URI or in mlflow.db of the current folder."""

    def __init__(self, folder: Path):
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        try:
            self._client = mlflow.MlflowClient()
            self._run = _id(folder, "mlflow") or self._begun(folder, Param)
        except mlflow.MlflowException as error:
            raise InputError(
                f"MLflow cannot start: {error}. Set MLFLOW_TRACKING_URI to a server, or to a file "
                "such as sqlite:///mlflow.db"
            ) from error

    def _begun(self, folder: Path, param: Callable[[str, str], Any]) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run = self._client.create_run(number, run_name=str(folder)).info.run_id
        options = _flat(_config(folder))
        self._client.log_batch(run, params=[param(k, str(v)[:500]) for k, v in options.items()])
        _keep_id(folder, "mlflow", run)
        return run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the values of a step in one request."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Marks the run as ended."""
        self._client.set_terminated(self._run)


LOGGERS: dict[str, Callable[[Path], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


def _config(folder: Path) -> dict[str, Any]:
    """The options of a run; none where it has no config yet."""
    path = folder / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _flat(values: Mapping[str, Any], group: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{group}{name}.") if inner else {f"{group}{name}": value}
    return flat


def _ids(folder: Path) -> dict[str, str]:
    path = folder / IDS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _id(folder: Path, name: str) -> str | None:
    return _ids(folder).get(name)


def _keep_id(folder: Path, name: str, identifier: str) -> None:
    disk.write(folder / IDS, json.dumps({**_ids(folder), name: identifier}))
