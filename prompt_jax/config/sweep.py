"""Which candidates a sweep tries, and how losers make room for others."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from prompt_jax.config.checks import InputError, at_least, choose

Search = Literal["halving", "asha", "pbt", "full"]
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
"""What a time may end in, in seconds."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Candidates are drawn from all combinations; what is empty stays as the experiment has it."""

    learning_rates: tuple[float, ...] = ()
    """Peak learning rates."""
    weight_decays: tuple[float, ...] = ()
    inits: tuple[str, ...] = ()
    """Where a prompt starts: vocab, text, class_labels, random, file."""
    lengths: tuple[int, ...] = ()
    """Virtual tokens; shorter prompts are padded to the longest one."""
    placements: tuple[str, ...] = ()
    """Where the prompt stands; each placement is a program of its own."""
    seeds: tuple[int, ...] = ()
    """Seeds of the prompt, the order of rows and dropout."""
    candidates: int = 16
    """Candidates at most; all combinations where there are fewer."""
    slots: int = 4
    """Candidates that train at once."""
    how: Search = "halving"
    """`halving`: one of `eta` goes on when all have reached a rung; `asha`: as soon as so many have
    (Li et al. 2020); `pbt`: the worst quarter goes on from the best quarter's prompts, at
    other rates (Jaderberg et al. 2017); `full`: all go to the end. At a rung the best are those
    under which the right labels are likeliest on validation, or of the best metric where a text is
    written; the metric decides who wins."""
    eta: int = 4
    """One of this many candidates goes on to the next rung."""
    rungs: int = 2
    """The last rung is the end, and each one is 1/eta of the next; of `pbt`, as far apart. An early
    rung is cheap, and knows little of who will win."""
    budget: str = ""
    """Device-hours to spend, such as 8h, 90m or 1.5h: wall time, from loading on, times devices.
    The best prompt so far is then kept. Empty goes on to the end."""
    seed: int = 0
    """Seed of the draw, and of the rates of `pbt`."""

    def __post_init__(self):
        choose("sweep.how", self.how, get_args(Search))
        for name, low in (("candidates", 2), ("slots", 1), ("eta", 2), ("rungs", 1), ("seed", 0)):
            at_least(f"sweep.{name}", getattr(self, name), low)
        _ = self.budget_seconds  # Which checks it.
        if self.how == "pbt" and len(self.placements) > 1:
            raise InputError(
                "members of pbt go on with prompts of others, which have one placement, got "
                f"{', '.join(self.placements)}; choose one, or another sweep.how"
            )
        for name, values in self.choices.items():
            if len(set(values)) < len(values):
                raise InputError(f"sweep.{name} names {values} twice; name each value once")

    @property
    def budget_seconds(self) -> float | None:
        """The budget in seconds of a device; None without one."""
        if not self.budget:
            return None
        amount = re.fullmatch(r"(\d+(?:\.\d+)?) ?([hms])", self.budget)
        seconds = float(amount[1]) * UNITS[amount[2]] if amount else 0.0
        if seconds == 0:
            raise InputError(
                f"sweep.budget is a time of all devices together such as 8h, 90m or 1.5h, got "
                f"{self.budget!r}"
            )
        return seconds

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """What candidates may differ in, by field, where there is a choice."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if isinstance(value, tuple) and value}

    def targets(self, steps: int) -> tuple[int, ...]:
        """The step of every rung."""
        if self.how == "full":
            return (steps,)
        shares = [(i + 1) / self.rungs for i in range(self.rungs)]
        if self.how != "pbt":
            shares = [self.eta ** -(self.rungs - 1 - i) for i in range(self.rungs)]
        rungs = tuple(round(steps * share) for share in shares)
        if len({0, *rungs}) <= self.rungs:
            raise InputError(
                f"{steps} steps are too few for {self.rungs} rungs at eta {self.eta}; raise "
                "train.steps, or lower sweep.rungs or sweep.eta"
            )
        return rungs
