"""What the experiments of papers take, task by task."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from prompt_jax.config import Config, InputError, choose
from prompt_jax.data import Schedule
from prompt_jax.lines import Say, silent
from prompt_jax.plan.chips import devices_of
from prompt_jax.plan.fitting import fitted
from prompt_jax.plan.hours import Hours, Pace, estimates, evaluated_rows, pace
from prompt_jax.plan.programs import programs_of
from prompt_jax.plan.report import choice
from prompt_jax.report import markdown

DRAWN = 8192
"""Rows of a task at most whose lengths are drawn."""


class Workload(NamedTuple):
    """A task of a paper, as far as its cost depends on it; its rows are not read."""

    task: str
    train: int
    """Rows, as are those of validation."""
    validation: int
    median: int
    """Tokens of an input in T5's format; lengths are log-normal."""
    spread: float
    """Standard deviation of their logarithm."""


EXPERIMENTS = {
    "superglue": (
        Workload("tfds:super_glue/boolq", 9427, 3270, 140, 0.45),
        Workload("tfds:super_glue/cb", 250, 56, 64, 0.7),
        Workload("tfds:super_glue/copa", 400, 100, 32, 0.2),
        Workload("tfds:super_glue/multirc", 27243, 4848, 380, 0.45),
        Workload("tfds:super_glue/record", 100730, 10000, 280, 0.25),
        Workload("tfds:super_glue/rte", 2490, 277, 72, 0.55),
        Workload("tfds:super_glue/wic", 5428, 638, 40, 0.25),
        Workload("tfds:super_glue/wsc.fixed", 554, 104, 40, 0.4),
    )
}


class Priced(NamedTuple):
    """A task, and what its run takes."""

    workload: Workload
    lengths: Mapping[int, float]
    """Tokens of text that a batch is padded to -> share of the steps."""
    hours: Hours


class Experiment(NamedTuple):
    """An experiment of a paper, and what it takes."""

    name: str
    pace: Pace
    tasks: Sequence[Priced]

    @property
    def device_hours(self) -> float:
        """Of all tasks, a run each."""
        return sum(priced.hours.device_hours for priced in self.tasks)


def price(config: Config, topology: str | None, name: str, *, say: Say = silent) -> Experiment:
    """What an experiment takes: a run for each of its tasks, on one slice.

    Args:
      config: what all runs have in common, as `train` takes it; its task is not looked at.
      topology: as `devices_of` takes it.
      name: of `EXPERIMENTS`.
      say: receives a line for what fits.

    Raises:
      InputError: no such experiment, devices without an estimate, or as `fitted`.
    """
    choose("experiment", name, EXPERIMENTS)
    device = devices_of(topology)[0]
    groups: dict[tuple[str, ...], list[Workload]] = {}
    for workload in EXPERIMENTS[name]:
        groups.setdefault(programs_of(_of_tasks(config, [workload])), []).append(workload)
    paces: dict[Workload, Pace] = {}
    for group in groups.values():
        rates = None
        if estimates(device):
            run = fitted(_of_tasks(config, group), topology, say=say)
            rates = pace(run, topology, by_length=True)
        if rates is None:
            raise InputError(
                f"no compiler estimates the time of this run on {device.device_kind}; give the "
                "slice of a TPU on which it fits, e.g. --topology v5e-4"
            )
        paces |= dict.fromkeys(group, rates)
    tasks = []
    for workload in EXPERIMENTS[name]:
        lengths, rows = lengths_of(workload, config), evaluated_rows(config, workload.validation)
        hours = paces[workload].hours(lengths, config.train.steps, rows)
        tasks.append(Priced(workload, lengths, hours))
    return Experiment(name, next(iter(paces.values())), tasks)


def _of_tasks(config: Config, group: Sequence[Workload]) -> Config:
    """A run of one program for all of a group; the most label words decide how large it is."""
    names = tuple(workload.task for workload in group)
    data = dataclasses.replace(config.data, task=names[0], tasks=names, mixture=())
    return dataclasses.replace(config, data=data)


def lengths_of(workload: Workload, config: Config) -> dict[int, float]:
    """The lengths that the batches of a task are padded to, and their shares of the steps."""
    count, longest = min(workload.train, DRAWN), config.data.max_source_length
    normal = statistics.NormalDist(math.log(workload.median), workload.spread)
    sizes = [math.exp(normal.inv_cdf((i + 0.5) / count)) for i in range(count)]
    options = config.train
    return Schedule(
        np.minimum(np.ceil(sizes), longest).astype(int),
        *(options.batch_size, options.seed),
        padded_lengths=config.data.padded_lengths,
        prompt_length=config.method.input_tokens,
    ).step_lengths()


def text(experiment: Experiment) -> str:
    """An experiment as a page: its settings, a row for each task, and what was assumed."""
    plan, tasks = experiment.pace.plan, experiment.tasks
    options = plan.config.train
    rows = [["task", "tokens of text (steps)", "s a step", "hours of evaluation", "chip-hours"]]
    for workload, lengths, hours in tasks:
        shares = ", ".join(f"{length} ({share:.0%})" for length, share in lengths.items())
        cells = [f"{hours.step:.3f}", f"{hours.evaluation / 3600:.2f}", f"{hours.device_hours:.1f}"]
        rows.append([workload.task.rpartition("/")[2], shares, *cells])
    total = f"{experiment.device_hours:.1f}"
    evaluation = sum(priced.hours.evaluation for priced in tasks) / 3600
    rows.append(["all", "", "", f"{evaluation:.2f}", total])
    watched = "all" if options.eval_examples is None else f"at most {options.eval_examples:,}"
    medians = ", ".join(str(priced.workload.median) for priced in tasks)
    steps = [f"{seconds:.3f} s at {n} positions" for n, seconds in experiment.pace.marks]
    return "\n".join(
        [
            f"{experiment.name}, {len(tasks)} tasks, a run of {options.steps:,} steps for each: "
            f"about {total} chip-hours on {tasks[0].hours.place}, by the compiler's estimate",
            f"{choice(plan)}; {options.batch_size} rows; validation every {options.eval_every:,} "
            f"steps on {watched} rows",
            f"a step takes {', '.join(steps)}",
            "",
            *markdown(rows).splitlines(),
            "",
            f"Assumed: the numbers of rows that were published; log-normal lengths, with medians "
            f"of {medians} tokens; time between these steps. No rows were read. Not "
            "counted: loading, compiling, stopping early.",
        ]
    )


def as_json(experiment: Experiment) -> dict[str, object]:
    """An experiment as plain data."""
    return {
        "experiment": experiment.name,
        "chip_hours": experiment.device_hours,
        "tasks": [
            {**workload._asdict(), "lengths": lengths, **hours._asdict()}
            for workload, lengths, hours in experiment.tasks
        ],
    }
