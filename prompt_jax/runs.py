"""A run folder: config.json, metrics.jsonl, metrics.csv, checkpoints/, prompt/, report.md.

Nothing in it is written in place: a killed run leaves whole files, and resuming cuts the metrics
back to the step it resumes from.
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prompt_jax.config import Config, InputError, check_place, differences, from_json, to_json

OWN_FILES = ("prompt", "checkpoints", "config.json", "metrics.jsonl", "metrics.csv", "curve.png")
OWN_FILES += ("report.md", "tensorboard", "sweep_config.json", "sweep.md", "sweep.json")
OWN_FILES += ("sweep.png", "tasks")


def check_run(config: Config, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Whether the run folder can be begun or resumed; the first thing a job does.

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
    elif folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise InputError(
                f"{folder} is not empty; continue its run with --resume, replace it with "
                "--overwrite, or give another --out"
            )
        _check_own(folder)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    return folder


def begin_run(folder: Path, config: Config, *, resume: bool = False) -> None:
    """Clears a folder that `check_run` accepted, unless resuming, and writes config.json."""
    with _writing(folder):
        if not resume:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_text(folder / "config.json", json.dumps(to_json(config), indent=2) + "\n")


def read_config(folder: Path) -> Config:
    """The config of a run.

    Raises:
      InputError: there is no run, or its config.json is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no run to resume: {path} is missing; leave out --resume")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); start again with --overwrite") from error
    return from_json(Config, values)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


class Metrics:
    """One row a step, appended to metrics.jsonl and, when given, to TensorBoard.

    metrics.csv is made of the same rows by `write_csv`, since its columns are known at the end.
    """

    def __init__(self, folder: Path, *, step: int = 0, tensorboard: bool = False):
        self._folder = folder
        self._path = folder / "metrics.jsonl"
        self.rows = [row for row in _read_rows(self._path) if row["step"] <= step]
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _board(folder / "tensorboard") if tensorboard else None

    def add(self, row: dict[str, float]) -> None:
        """Appends the row of a step."""
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board:
            for name in row.keys() - {"step"}:
                self._board.add_scalar(name, row[name], row["step"])

    def close(self) -> None:
        """Writes metrics.csv and closes the files."""
        self._file.close()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self._folder / "metrics.csv", text.getvalue())
        if self._board:
            self._board.close()


def _board(folder: Path) -> Any:
    try:
        from tensorboard.summary import Writer
    except ImportError as error:
        raise InputError(
            'train.tensorboard needs TensorBoard: pip install "prompt-jax[tensorboard]"'
        ) from error
    return Writer(str(folder))


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a metrics file; a last line that a kill cut short is left out."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _check_same(old: Config, new: Config, folder: Path) -> None:
    if old.train.schedule == "constant":
        # A longer run with a constant rate is the same run, continued.
        old = dataclasses.replace(old, train=dataclasses.replace(old.train, steps=new.train.steps))
    # A state is whole on every device, so any other mesh continues it.
    changed = differences(dataclasses.replace(old, out=new.out, mesh=new.mesh), new)
    if changed:
        raise InputError(
            f"the run in {folder} was started with another config: {'; '.join(changed)}. "
            "Resume without these changes, or give another --out"
        )


def _check_own(folder: Path) -> None:
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in OWN_FILES)
    if strangers:
        raise InputError(
            f"{folder} holds {', '.join(strangers[:5])}, which no run writes; --overwrite replaces "
            "runs only. Give another --out"
        )


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror}); give another --out"
        ) from error
