"""What the experiments of papers take, task by task."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from prompt_jax.config import Config, InputError, choose
from prompt_jax.data import Schedule
from prompt_jax.plan.chips import devices_of
from prompt_jax.plan.fitting import Say, fitted, silent
from prompt_jax.plan.hours import (
    Hours,
    estimates,
    evaluated_rows,
    mean_seconds,
    place,
    seconds_of,
)
from prompt_jax.plan.plan import Plan, plan
from prompt_jax.plan.programs import programs_of
from prompt_jax.plan.report import choice
from prompt_jax.report import markdown

COMPILED = (0.25, 1.0)
"""Shares of the longest input that the step is compiled for."""
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
    plan: Plan
    """Of the longest input."""
    tasks: Sequence[Priced]

    @property
    def device_hours(self) -> float:
        """Of all tasks, a run each."""
        return sum(priced.hours.device_hours for priced in self.tasks)


def price(config: Config, topology: str | None, name: str, *, say: Say = silent) -> Experiment:
    """What an experiment takes: a run for each of its tasks, on one slice.

    The step is compiled for a few lengths, and scoring for the longest one; the time at other
    lengths lies between.

    Args:
      config: what all runs have in common, as `train` takes it; its task is not looked at.
      topology: as `devices_of` takes it.
      name: of `EXPERIMENTS`.
      say: receives a line for what fits, and one for every length.

    Raises:
      InputError: no such experiment, devices without an estimate, or as `fitted`.
    """
    choose("experiment", name, EXPERIMENTS)
    device = devices_of(topology)[0]
    if not estimates(device):
        raise InputError(
            f"no compiler estimates the time of a program on {device.device_kind}; give the slice "
            "of a TPU, e.g. --topology v5e-4"
        )
    groups: dict[tuple[str, ...], list[Workload]] = {}
    for workload in EXPERIMENTS[name]:
        groups.setdefault(programs_of(_of_tasks(config, [workload])), []).append(workload)
    runs = [fitted(_of_tasks(config, group), topology, say=say) for group in groups.values()]
    # The step is the same program whatever is scored beside it.
    longest, steps = _steps(runs[0], topology, say)
    priced: dict[Workload, Priced] = {}
    for (programs, group), run in zip(groups.items(), runs, strict=True):
        scoring = plan(run, topology, programs=programs[1:])
        scored = {run.data.max_source_length: seconds_of(scoring)}
        for workload in group:
            lengths = lengths_of(workload, run)
            virtual, rows = run.method.input_tokens, run.scoring.rows
            batches = evaluated_rows(run, workload.validation) / rows
            hours = Hours(
                run.train.steps,
                mean_seconds(steps, lengths, virtual),
                batches * mean_seconds(scored, lengths, virtual),
                *(longest.devices, place(longest)),
            )
            priced[workload] = Priced(workload, lengths, hours)
    return Experiment(name, longest, [priced[workload] for workload in EXPERIMENTS[name]])


def _of_tasks(config: Config, group: Sequence[Workload]) -> Config:
    """A run of one program for all of a group; the most label words decide how large it is."""
    names = tuple(workload.task for workload in group)
    data = dataclasses.replace(config.data, task=names[0], tasks=names, mixture=())
    return dataclasses.replace(config, data=data)


def _steps(run: Config, topology: str | None, say: Say) -> tuple[Plan, dict[int, float]]:
    """The plan of a step of the longest input, and seconds by the length of the text."""
    virtual, longest = run.method.input_tokens, run.data.max_source_length
    points: dict[int, float] = {}
    made: list[Plan] = []
    for share in COMPILED:
        length = min(8 * math.ceil((virtual + longest) * share / 8) - virtual, longest)
        if length < 1:
            continue
        data = dataclasses.replace(run.data, max_source_length=length)
        step = plan(dataclasses.replace(run, data=data), topology, programs=("train",))
        made.append(step)
        points[length] = seconds_of(step)
        say(f"a step of {virtual} + {length} tokens: {points[length]:.3f} s")
    return made[-1], points


def lengths_of(workload: Workload, config: Config) -> dict[int, float]:
    """The lengths that the batches of a task are padded to, as in a run with rows so long."""
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
    """An experiment as a page: what was assumed, and a row for each task."""
    config, tasks = experiment.plan.config, experiment.tasks
    rows = [["task", "tokens of text (steps)", "s a step", "evaluation, h", "chip-hours"]]
    for workload, lengths, hours in tasks:
        shares = ", ".join(f"{length} ({share:.0%})" for length, share in lengths.items())
        cells = [f"{hours.step:.3f}", f"{hours.evaluation / 3600:.2f}", f"{hours.device_hours:.1f}"]
        rows.append([workload.task.rpartition("/")[2], shares, *cells])
    total = f"{experiment.device_hours:.1f}"
    evaluation = sum(priced.hours.evaluation for priced in tasks) / 3600
    rows.append(["all", "", "", f"{evaluation:.2f}", total])
    every = f"every {config.train.eval_every:,} steps"
    watched = config.train.eval_examples
    return "\n".join(
        [
            f"{experiment.name}, a run of {config.train.steps:,} steps for each of {len(tasks)} "
            f"tasks: about {total} chip-hours on {place(experiment.plan)}, by the compiler's "
            "estimate",
            f"{choice(experiment.plan)}; {config.train.batch_size} rows of "
            f"{config.method.input_tokens} tokens and the text; validation {every} on "
            f"{'all' if watched is None else f'at most {watched:,}'} rows",
            "",
            *markdown(rows).splitlines(),
            "",
            "Assumed: the tasks' published numbers of rows, and log-normal lengths with medians of "
            + ", ".join(f"{w.median}" for w, _, _ in tasks)
            + " tokens. No data was read. Not counted: loading and compiling.",
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
