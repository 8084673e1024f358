"""A run folder: its config and inputs, metrics, checkpoints/, prompt/, report.md (docs/files.md).

Nothing in it is written in place: a killed run leaves whole files, and resuming cuts the metrics
back to the step it resumes from. One process at a time has it.
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from prompt_jax import disk
from prompt_jax.config import (
    Config,
    InputError,
    check_place,
    differences,
    from_json,
    method_kinds,
    to_json,
)
from prompt_jax.loggers import IDS, open_logger

Row = dict[str, float]
"""What is known of a step, by name."""
Inputs = Mapping[str, str | bool]
"""Beside its config, what a run depends on: name -> digest, or fact."""
FEW_ROWS = "few validation rows"
"""The input that says whether `rank` has few."""
INPUTS = "inputs.json"
LOCK = ".lock"
REMEDY = "give another --out"
OWN_FILES = (
    *(LOCK, "prompt", "checkpoints", "config.json", INPUTS, "metrics.jsonl", "metrics.csv"),
    *("curve.png", "report.md", "profile", "tasks", "seeds", "teacher", "lengths"),
    *("tensorboard", "wandb", IDS),
    *("sweep_config.json", "sweep_spent.json", "sweep.md", "sweep.json", "sweep.png"),
    "lengths.png",
    *("compare.md", "compare.json", "compare.png"),
)
"""What runs write; `--overwrite` refuses a folder that holds anything else."""


@contextlib.contextmanager
def claim(config: Config, *, resume: bool = False, overwrite: bool = False) -> Iterator[Path]:
    """The run folder of a config, which no other process has until the run ends."""
    folder = check_run(config, resume=resume, overwrite=overwrite)
    with hold(folder):
        try:
            yield folder
        except disk.DiskFullError as error:
            way = " with --resume" if (folder / "config.json").is_file() else ""
            raise disk.DiskFullError(f"{error}{way}") from error


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps a folder for this process."""
    path, held = folder / LOCK, False
    with contextlib.ExitStack() as stack:
        while not held:
            with disk.writing(folder, REMEDY):
                file = stack.enter_context(path.open("a", encoding="utf-8"))
                disk.lock(file, folder, f"wait for its end or stop it, or {REMEDY}")
                # Else its owner has removed it since it was opened.
                held = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
        # Registered last and so run first: the file goes while its lock is still held.
        stack.callback(path.unlink, missing_ok=True)
        yield


def check_run(config: Config, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Checks that the run folder can be begun or resumed; the first thing a job does.

    Nothing is removed yet: that waits until the data and the backbone are known to load.

    Raises:
      InputError: the folder cannot be written, holds something already, or holds a run with
        another config while `resume` is asked for.
    """
    check_place(config.out)
    folder = Path(config.out)
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; give one of them")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file; give a folder")
    if resume:
        _check_same(read_config(folder), config, folder)
    elif folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        if not overwrite:
            raise InputError(
                f"{folder} is not empty; continue its run with --resume, replace it with "
                "--overwrite, or give another --out"
            )
        _check_own(folder)
    with disk.writing(folder, REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions alone do not tell whether a mounted disk takes a file.
        with tempfile.TemporaryFile(dir=folder):
            pass
    return folder


def begin_run(
    folder: Path, config: Config, *, resume: bool = False, inputs: Inputs = MappingProxyType({})
) -> None:
    """Clears a folder that `check_run` accepted, unless resuming, and writes what the run is of.

    Args:
      inputs: what must not differ where the run is resumed.

    Raises:
      InputError: resuming, and the default learning rate or an input is no longer that of the run.
    """
    if resume and (folder / "config.json").is_file():
        _check_same(read_config(folder), config, folder)
    before = read_inputs(folder) if resume else {}
    changed = [name for name in inputs if before.get(name, inputs[name]) != inputs[name]]
    if changed:
        raise InputError(
            f"the run in {folder} was started with another content of {', '.join(changed)}. Resume "
            "with what it was started with, start again with --overwrite, or give another --out"
        )
    with disk.writing(folder, REMEDY):
        for path in [] if resume else folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            # Without the file of the lock, which is held, another process would get its own.
            elif path.name != LOCK:
                path.unlink()
    if kept := {**before, **inputs}:
        disk.write(folder / INPUTS, json.dumps(kept, indent=2) + "\n")
    disk.write(folder / "config.json", json.dumps(to_json(config), indent=2) + "\n")


def read_config(folder: Path) -> Config:
    """The config of a run."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no run to resume: {path} is missing; leave out --resume")
    return from_json(Config, _read_json(path))


def read_inputs(folder: Path) -> Inputs:
    """The inputs of a run; of one that an earlier version began, none."""
    path = folder / INPUTS
    return _read_json(path) if path.is_file() else {}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); start again with --overwrite") from error


def read_metrics(folder: Path) -> list[Row]:
    """The rows of a run's metrics; a last line that a kill cut short is left out."""
    path, rows = folder / "metrics.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def rows_of(rows: Sequence[Row], candidate: float) -> list[Row]:
    """The rows of one candidate of a sweep, by its own steps."""
    return [{**row, "step": row["own_step"]} for row in rows if row["candidate"] == candidate]


def rank(score: float, likelihood: float | None, few: bool = False) -> tuple[float, float]:
    """What the prompts of a run are compared by: the higher pair is the better prompt.

    Args:
      score: the deciding metric, turned round where less of it is better (`Scores.score`).
      likelihood: log-likelihood of the right answers; None where it is not known.
      few: compare by the likelihood first. Over few rows, one more or less is chance, and would
        often keep the untrained prompt.
    """
    # In float32, as checkpoints hold them, or a restored score would differ from an equal one.
    first, second = (
        float(np.float32(-np.inf if value is None or np.isnan(value) else value))
        for value in (score, likelihood)
    )
    return (second, first) if few else (first, second)


class Metrics(contextlib.AbstractContextManager):
    """One row a step, appended to metrics.jsonl and sent to the loggers.

    metrics.csv is made of the same rows by `close`, since its columns are known at the end.
    """

    def __init__(self, folder: Path, *, step: int = 0, loggers: Sequence[str] = ()):
        self._folder = folder
        self._path = folder / "metrics.jsonl"
        self.rows = [row for row in read_metrics(folder) if row["step"] <= step]
        # Steps behind the checkpoint are run again, and so are their rows written again.
        disk.write(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = self._path.open("a", encoding="utf-8")
        self._loggers = [open_logger(name, folder) for name in loggers]

    def add(self, row: Row) -> None:
        """Appends the row of a step."""
        self.rows.append(row)
        with disk.writing(self._path):
            self._file.write(json.dumps(row) + "\n")
            # Whoever follows the run sees the row now; only `sync` makes it survive a power cut.
            self._file.flush()
        values = {name: value for name, value in row.items() if name != "step"}
        for logger in self._loggers:
            logger.log(int(row["step"]), values)

    def sync(self) -> None:
        """Waits until all rows are on the disk: before a checkpoint, which they have to reach."""
        with disk.writing(self._path):
            disk.sync(self._path)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes metrics.csv and closes the files."""
        with disk.writing(self._path):
            self._file.close()
        self.sync()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        # The csv module ends lines with \r\n unless it is told otherwise.
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        disk.write(self._folder / "metrics.csv", text.getvalue())
        for logger in self._loggers:
            logger.close()


def changes(old: Config, new: Config) -> list[str]:
    """Lines `field: old -> new`, for every field in which two configs give different prompts."""
    if new.train.learning_rate is None:  # Open until the backbone is loaded.
        old = dataclasses.replace(old, train=dataclasses.replace(old.train, learning_rate=None))
    # A state is whole on every device, so any other mesh continues it; tokens are the same from
    # any cache.
    data = dataclasses.replace(old.data, cache=new.data.cache)
    return differences(dataclasses.replace(old, out=new.out, mesh=new.mesh, data=data), new)


def _check_same(old: Config, new: Config, folder: Path) -> None:
    saved = (path.name for path in (folder / "checkpoints").glob("*"))
    newest = max((int(name) for name in saved if name.isdigit()), default=0)
    if old.train.schedule == "constant" and new.train.steps >= newest:
        # A longer run with a constant rate is the same run, continued.
        old = dataclasses.replace(old, train=dataclasses.replace(old.train, steps=new.train.steps))
    if changed := changes(old, new):
        raise InputError(
            f"the run in {folder} was started with another config: {'; '.join(changed)}. "
            "Resume without these changes, or give another --out"
        )


def _check_own(folder: Path) -> None:
    files = {*OWN_FILES, *method_kinds()}  # A comparison has a folder for each method.
    names = (path.name for path in folder.iterdir())
    # A process that was killed while it wrote a file has left what it had written.
    strangers = sorted(name for name in names if disk.target(name) not in files)
    if strangers:
        raise InputError(
            f"{folder} holds {', '.join(strangers[:5])}, which no run writes; --overwrite replaces "
            "runs only. Give another --out"
        )
