"""What a sweep may spend, and has spent: the time of all its devices together."""

import json
import statistics
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import numpy as np

from prompt_jax import disk
from prompt_jax.config import InputError, SweepConfig
from prompt_jax.experiment.loop import Rows
from prompt_jax.lines import Line, Say, clock_time
from prompt_jax.processes import from_first

KEPT = "sweep_spent.json"


class Work(NamedTuple):
    """What a sweep has to do."""

    steps: int
    """Of one candidate that goes to the end."""
    all: int
    """Steps of all candidates together."""
    batch_size: int
    """Rows of a step of one candidate."""


class Budget:
    """Counts the time of a sweep from here on, and says when it is spent.

    Args:
      sweep: without a `budget` nothing is ever spent.
      folder: of the sweep, which keeps what was spent.
    """

    def __init__(self, sweep: SweepConfig, folder: Path, say: Say):
        self.words, self.limit = sweep.budget, sweep.budget_seconds
        self._path, self._say = folder / KEPT, say
        self._begun, self._before, self._devices = monotonic(), 0.0, 1
        self._work = Work(0, 0, 0)
        self._seconds: list[float] = []
        self._announced = False

    def begin(self, work: Work, devices: int, *, resume: bool) -> None:
        """Settles what is to be done, on how many devices; a resumed sweep goes on counting."""
        self._work, self._devices = work, devices
        if resume and self._path.is_file():
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            self._before = float(kept["device_seconds"])

    @property
    def spent(self) -> float:
        """Seconds of all devices together."""
        return self._before + (monotonic() - self._begun) * self._devices

    def exhausted(self) -> bool:
        """Whether nothing is left."""
        return self.limit is not None and _of_first(self.spent) >= self.limit

    def keep(self, clock: int, rows: Rows) -> None:
        """Writes what was spent, for a sweep that is resumed."""
        disk.write(self._path, json.dumps({"device_seconds": self.spent}) + "\n")

    def measure(self, clock: int, rows: Rows) -> None:
        """Takes the time of a step of one candidate."""
        if not self._announced:
            (row, *_) = rows.values()
            seconds = self._work.batch_size / row["examples_per_second"]
            self._seconds.append(seconds / len(rows))

    def foretell(self, clock: int, rows: Rows) -> None:
        """Says once, after the first round, how long the sweep takes.

        Raises:
          InputError: the budget is less than one candidate takes to the end.
        """
        if self._announced or not self._seconds:
            return
        self._announced = True
        # Not the mean: a step of a length that was not there before compiles.
        seconds = _of_first(statistics.median(self._seconds))
        self.check(seconds, "as measured")
        left = int(seconds * self._work.all)
        share = "" if self.limit is None else f"; the budget is {self.words}"
        line = (
            f"about {clock_time(left)} for all candidates ({self._work.all:,} steps of one at "
            f"{seconds:.2g} s), beside evaluation{share}"
        )
        self._say(Line(line, {"step": clock, "seconds": left}))

    def check(self, seconds: float, source: str) -> None:
        """Checks that the budget is enough for one candidate.

        Args:
          seconds: of a step of one.
          source: how they are known.

        Raises:
          InputError: it is not.
        """
        hours = seconds * self._work.steps * self._devices / 3600
        if self.limit is not None and hours * 3600 > self.limit:
            raise InputError(
                f"a candidate of {self._work.steps:,} steps takes about {hours:.2g} device-hours, "
                f"{source}, and sweep.budget is {self.words}; give a larger budget or lower "
                "train.steps"
            )

    def ended(self, judged: bool) -> None:
        """Says that the budget is spent, where it is.

        Raises:
          InputError: no candidate has been evaluated.
        """
        if not self.exhausted():
            return
        if not judged:
            raise InputError(
                f"sweep.budget {self.words} was spent before the first evaluation; give a larger "
                "budget with --resume, or evaluate sooner (train.eval_every, sweep.rungs)"
            )
        self._say(
            f"the budget of {self.words} is spent: the best prompt so far is kept; for more, "
            "--resume with a larger --sweep.budget"
        )


def _of_first(seconds: float) -> float:
    """What the clock of the first process says, for all have to end at the same step."""
    return float(from_first(np.float32(seconds)))
