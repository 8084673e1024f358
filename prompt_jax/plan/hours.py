"""What a run takes from its first step to its last score, by its compiler's estimate of each."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from prompt_jax.config import Config, InputError
from prompt_jax.plan.chips import chip_of, devices_of
from prompt_jax.plan.plan import Plan, plan
from prompt_jax.sharding import Device


class Hours(NamedTuple):
    """The time of a run, in its parts."""

    steps: int
    step: float
    """Seconds of a step, on average over lengths."""
    evaluation: float
    """Seconds of all that is scored."""
    devices: int
    place: str
    """The slice, or how many of which devices."""

    @property
    def seconds(self) -> float:
        """From the first step to the last score; compiling and loading are not in it."""
        return self.steps * self.step + self.evaluation

    @property
    def device_hours(self) -> float:
        """Hours of all devices together."""
        return self.seconds * self.devices / 3600

    def __str__(self) -> str:
        evaluation = self.evaluation / 60
        beside = f" and {evaluation:,.0f} minutes of evaluation" if evaluation >= 1 else ""
        return (
            f"about {self.device_hours:,.{1 if self.device_hours >= 1 else 2}f} chip-hours on "
            f"{self.place} ({self.steps:,} steps at {self.step:.2g} s{beside}, by the compiler's "
            "estimate)"
        )


def place(plan: Plan) -> str:
    """The slice of a plan, or how many of which devices."""
    return plan.topology or f"{plan.devices} x {plan.kind}"


def estimates(device: Device) -> bool:
    """Whether the compiler of a device estimates the time of a program, as a TPU's does."""
    chip = chip_of(device)
    return chip is not None and chip.clock > 0


def seconds_of(plan: Plan) -> float:
    """All programs of a plan, as their compiler estimates.

    Raises:
      InputError: one does not fit, or the compiler does not estimate.
    """
    seconds = [cost.estimate.seconds for cost in plan.costs if cost.estimate]
    if len(seconds) < len(plan.costs):
        raise InputError(
            f"there is no estimate of time on {place(plan)}: a program does not fit, or its "
            "compiler does not estimate; give the slice of a TPU, e.g. --topology v5e-4"
        )
    return sum(seconds)


def of_longest(plan: Plan) -> Hours | None:
    """The time of a run of the longest texts, without evaluation: a plan reads no rows.

    None where the plan has no estimate of a step.
    """
    steps = [cost.estimate for cost in plan.costs if cost.program == "train"]
    if not steps or steps[0] is None:
        return None
    return Hours(plan.config.train.steps, steps[0].seconds, 0.0, plan.devices, place(plan))


def of_run(
    config: Config,
    lengths: Mapping[int, float],
    steps: int,
    rows: int,
    topology: str | None = None,
) -> Hours | None:
    """The time of a run whose rows are known; None where no compiler estimates it.

    Its programs are compiled for the longest batch, once a machine (see `kept`).

    Args:
      config: a run that is `fitted`.
      lengths: tokens of text that a batch is padded to -> share of the steps.
      steps: of all its prompts.
      rows: that it scores.
      topology: as `devices_of` takes it.
    """
    if not estimates(devices_of(topology)[0]):
        return None
    data = dataclasses.replace(config.data, max_source_length=max(lengths))
    made = plan(dataclasses.replace(config, data=data), topology)
    seconds = {cost.program: cost.estimate.seconds for cost in made.costs if cost.estimate}
    if len(seconds) < len(made.costs):
        return None
    step, scoring = (
        mean_seconds({max(lengths): time}, lengths, config.method.input_tokens)
        for time in (seconds.pop("train"), sum(seconds.values()))
    )
    batches = rows / config.scoring.rows
    return Hours(steps, step, batches * scoring, made.devices, place(made))


def mean_seconds(points: Mapping[int, float], lengths: Mapping[int, float], virtual: int) -> float:
    """Seconds of a program on average, between lengths that it was compiled for.

    Args:
      points: text length -> seconds; between two the time grows evenly. With one point it grows as
        the positions do.
      lengths: text length -> share of the calls.
      virtual: tokens in front of each text.
    """
    at = sorted(points)
    seconds = [points[length] for length in at]
    if len(at) == 1:
        at, seconds = [-virtual, *at], [0.0, *seconds]
    shares = lengths.values()
    return float(np.dot(np.interp(list(lengths), at, seconds), list(shares)) / sum(shares))


def evaluated_rows(config: Config, validation: int, tests: int = 0) -> int:
    """Rows that a run scores: before it, on its way, and twice at its end.

    Args:
      validation: its rows.
      tests: rows of test sets, which are scored at the end.
    """
    options = config.train
    watched = min(validation, options.eval_examples or validation)
    times = 1 + -(-options.steps // options.eval_every)
    # At the end the model without the prompt too.
    return times * watched + 2 * (validation + tests)
