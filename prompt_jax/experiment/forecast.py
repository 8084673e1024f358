"""What a run will take, said before its first step, where a compiler estimates it."""

import collections
from collections.abc import Sequence

from prompt_jax.backbones import Backbone
from prompt_jax.config import Config
from prompt_jax.data import Schedule
from prompt_jax.experiment.splits import Data
from prompt_jax.plan.hours import Hours, evaluated_rows, pace


def forecast(
    config: Config,
    backbone: Backbone,
    schedules: Sequence[Schedule],
    rows: int,
    *,
    steps: int | None = None,
    topology: str | None = None,
) -> Hours | None:
    """The time of a run; None where no compiler estimates it, and of a model that only reads.

    Prompts that train together take about the time of one after the other.

    Args:
      config: that is `fitted`.
      schedules: the batches of every prompt.
      rows: that are scored.
      steps: of all prompts together; None is `train.steps` for each.
      topology: as `devices_of` takes it; None is the devices that it will run on.
    """
    if backbone.target_place == "within":
        return None
    shares: collections.defaultdict[int, float] = collections.defaultdict(float)
    for schedule in schedules:
        for length, share in schedule.step_lengths().items():
            shares[length] += share / len(schedules)
    steps = config.train.steps * len(schedules) if steps is None else steps
    # The programs of `fitted`, which has compiled them: of the longest texts that there may be.
    rates = pace(config, topology)
    return rates and rates.hours(shares, steps, rows)


def scored_rows(config: Config, data: Sequence[Data]) -> int:
    """Rows that a run on these tasks scores from its beginning to its end."""
    tests = [sum(map(len, task.tests.values())) for task in data]
    return sum(
        evaluated_rows(config, len(task.validation), count)
        for task, count in zip(data, tests, strict=True)
    )
