"""What a run takes from its first step to its last score, by its compiler's estimate of each."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prompt_jax.config import Config
from prompt_jax.plan.chips import chip_of, devices_of
from prompt_jax.plan.plan import Plan, plan
from prompt_jax.plan.programs import SHORT
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


class Mark(NamedTuple):
    """A length that the step was compiled for."""

    positions: int
    """Of an input, virtual tokens among them."""
    seconds: float


class Pace(NamedTuple):
    """Seconds of the programs of a run."""

    plan: Plan
    """Of its longest input."""
    scoring: float
    """Of a batch of evaluation, at the longest input."""
    marks: Sequence[Mark]
    """Steps, the longest one last: the time of others lies on the lines between them."""

    def step(self, positions: int) -> float:
        """Seconds of a step of inputs of so many positions."""
        # One that is shorter than all is on the first line: part of its time is that of weights.
        after = max(1, sum(mark.positions < positions for mark in self.marks))
        before, after = self.marks[after - 1 : after + 1]
        slope = (after.seconds - before.seconds) / (after.positions - before.positions)
        return before.seconds + (positions - before.positions) * slope

    def hours(self, lengths: Mapping[int, float], steps: int, rows: int) -> Hours:
        """The time of a run.

        Args:
          lengths: tokens of text that a batch is padded to -> share of the steps.
          steps: of all its prompts.
          rows: that it scores.
        """
        config = self.plan.config
        shares = {config.method.input_tokens + n: share for n, share in lengths.items()}
        positions = sum(n * share for n, share in shares.items())
        batches = positions / self.marks[-1].positions * rows / config.scoring.rows
        step = sum(self.step(n) * share for n, share in shares.items())
        return Hours(steps, step, batches * self.scoring, self.plan.devices, place(self.plan))


def pace(config: Config, topology: str | None = None, *, by_length: bool = False) -> Pace | None:
    """The pace of a run; None where no compiler estimates it, or a program does not fit.

    Its programs are compiled, once a machine (see `kept`).

    Args:
      config: a run that is `fitted`.
      topology: as `devices_of` takes it.
      by_length: compile the step for about a quarter of the positions too, and on both sides of
        `remat_beyond`; else time is in proportion to positions.

    Raises:
      InputError: as `plan`.
    """
    if not estimates(devices_of(topology)[0]):
        return None
    run = plan(config, topology)
    seconds = {cost.program: cost.estimate.seconds for cost in run.costs if cost.estimate}
    if len(seconds) < len(run.costs):
        return None
    virtual, border = config.method.input_tokens, config.frozen.remat_beyond
    longest = Mark(virtual + config.data.max_source_length, seconds.pop("train"))
    seconds.pop(SHORT, None)
    # One over a quarter: a step of whole tiles would be faster than most that are about as long.
    quarter = longest.positions // 32 * 8 + 8
    lengths = {quarter, *((border, border + 8) if border else ())} if by_length else ()
    marks = []
    for positions in sorted(n for n in lengths if virtual < n < longest.positions):
        data = dataclasses.replace(config.data, max_source_length=positions - virtual)
        part = dataclasses.replace(config, data=data)
        (cost,) = plan(part, topology, programs=("train",)).costs
        if cost.seconds is not None:
            marks.append(Mark(positions, cost.seconds))
    return Pace(run, sum(seconds.values()), [*(marks or [Mark(0, 0.0)]), longest])


def of_longest(plan: Plan) -> Hours | None:
    """The time of a run of the longest texts, without evaluation: a plan reads no rows.

    None where the plan has no estimate of a step.
    """
    steps = [cost.estimate for cost in plan.costs if cost.program == "train"]
    if not steps or steps[0] is None:
        return None
    return Hours(plan.config.train.steps, steps[0].seconds, 0.0, plan.devices, place(plan))


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


def estimates(device: Device) -> bool:
    """Whether the compiler of a device estimates the time of a program, as a TPU's does."""
    chip = chip_of(device)
    return chip is not None and chip.clock > 0


def place(plan: Plan) -> str:
    """The slice of a plan, or how many of which devices."""
    return plan.topology or f"{plan.devices} x {plan.kind}"
