"""The loop of a run: members train in rounds, and hooks act on what they have become.

    loop = Loop(members, [folder], config.train, say)
    loop.every(50, loop.evaluate)
    loop.run(folder / "checkpoints", resume=False)

`train` has one member, `--data.tasks` one for each task, and a sweep its candidates, of which those
train that its rungs let go on.
"""

import abc
import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prompt_jax import checkpoints
from prompt_jax.config import TrainConfig
from prompt_jax.experiment.choice import Judgement
from prompt_jax.lines import Line, Say, clock_time
from prompt_jax.processes import from_first, is_first, preempted, together
from prompt_jax.runs import Metrics, Row
from prompt_jax.sharding import on_host
from prompt_jax.signals import stopping
from prompt_jax.trees import Tree

EARLY = 10
"""Steps and seconds after which a run says how long it will take, if it has not said so before."""
Rows = dict[int, Row]
"""Member -> what is known of its last step; a hook may add to it before `Loop.log` writes it."""
Action = Callable[[int, Rows], None]
"""Called with the step of the run and the rows of the members for which a hook is due."""
Report = Callable[[int, Mapping[str, Sequence[float]], bool], None]
"""Called with the finished steps of a round, the metrics of all that train in it by name, and
whether the round has ended, so that the states are on the host."""


class Members(abc.ABC):
    """What a loop trains; a member is known by its number."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    def title(self, index: int) -> str:
        """What lines about a member begin with."""
        return ""

    def labels(self, index: int, step: int) -> Row:
        """What tells the row of a member's step from rows of other members in the same file."""
        return {}

    @abc.abstractmethod
    def step(self, index: int) -> int:
        """Steps that a member has made."""

    @abc.abstractmethod
    def target(self, index: int) -> int:
        """The step at which all hooks are due for a member: its last one, or its next rung."""

    def ready(self) -> list[int]:
        """The members that train in the next round; none where the run has ended."""
        return [i for i in range(len(self)) if self.step(i) < self.target(i)]

    @abc.abstractmethod
    def advance(
        self, chosen: Sequence[int], steps: int, report: Report, going: Callable[[], bool]
    ) -> None:
        """Trains the chosen for a round.

        Args:
          chosen: different members, from where each is.
          going: asked before every step; False ends the round.
        """

    @abc.abstractmethod
    def judge(self, index: int) -> Judgement:
        """Scores a member on validation and keeps its prompt when it is the best so far."""

    @abc.abstractmethod
    def checkpoint(self) -> Tree:
        """All that a checkpoint holds."""

    @abc.abstractmethod
    def restore(self, state: Tree) -> None:
        """Goes on from what `checkpoint` gave."""


class Hook(NamedTuple):
    """An action that is due at every so many steps of a member, and at its target."""

    steps: int
    action: Action
    first: bool
    """Whether it is due before the first step too."""
    reads: bool
    """Whether it reads the states, so that a round has to end where it is due."""


class Loop:
    """Trains members to their end, or until a signal, and calls hooks on the way.

    Args:
      members: what trains.
      folders: of every member, where its metrics are written; members that take turns share one.
      enough: asked before every step; True ends the run where it is, without a signal.
    """

    def __init__(
        self,
        members: Members,
        folders: Sequence[Path],
        options: TrainConfig,
        say: Say = print,
        enough: Callable[[], bool] = lambda: False,
    ):
        self.members, self.folders, self.options, self.say = members, folders, options, say
        self.enough = enough
        self.clock, self.stopped = 0, False
        self._in_turns = len(set(folders)) < len(members)
        self._hooks: list[Hook] = []
        self._files: dict[Path, Metrics] = {}
        self._manager: checkpoints.Manager | None = None
        self._ahead = 0
        self._first: tuple[int, float] | None = None
        self._tick, self._foretold = 0.0, False
        self._paces: list[float] = []

    def every(self, steps: int, action: Action, *, first: bool = False, reads: bool = True) -> None:
        """Calls an action at every so many steps of a member, and at its target.

        Hooks are called in the order in which they were added.

        Args:
          steps: a multiple of these is due.
          action: see `Action`.
          first: call it for all members before the first step too.
          reads: whether it reads the states. One that does not is called while the device is at the
            next step already, so that the device never waits for it.
        """
        self._hooks.append(Hook(steps, action, first, reads))

    def watch(self, *, first: bool = True) -> None:
        """Adds the hooks of a run: evaluation, metrics, checkpoints and progress."""
        self.every(self.options.eval_every, self.evaluate, first=first)
        self.every(1, self.log, first=first, reads=False)
        self.every(self.options.checkpoint_every, self.save)
        self.every(max(self.options.steps // 20, 1), self.progress, reads=False)
        self.every(1, self.foretell, reads=False)

    def stop(self) -> None:
        """Ends the run after the step that is under way."""
        self.stopped = True

    def run(self, folder: Path, *, resume: bool) -> None:
        """Runs rounds until no member is ready or a signal arrives.

        Args:
          resume: go on from the last one, bit for bit.
        """
        with contextlib.ExitStack() as stack:
            # The first process keeps the state of all, which is whole in each of them.
            writing = checkpoints.writing(folder) if is_first() else None
            self._manager = writing and stack.enter_context(writing)
            begun = self._restore(resume)
            # A logger has one curve a name, in which members of one file would be mixed.
            loggers = () if self._in_turns else self.options.loggers
            for place in dict.fromkeys(self.folders):
                metrics = Metrics(place, step=begun, loggers=loggers)
                self._files[place] = stack.enter_context(metrics)
            if begun < 0:
                rows: Rows = {i: {"step": 0} for i in range(len(self.members))}
                for hook in self._hooks:
                    if hook.first:
                        hook.action(0, rows)
            stack.enter_context(stopping(self.stop))
            while self._on() and (chosen := self.members.ready()):
                self._round(chosen)
            # Also after a signal, so that a resumed run repeats no step.
            self.save(self.clock, {})
        if self.stopped:
            self.say(f"stopped after step {self.clock}; continue with --resume")

    def _restore(self, resume: bool) -> int:
        """Takes the last checkpoint; its step, -1 where there is none."""
        like = self.members.checkpoint()
        manager = self._manager if resume else None
        # What only the first process can read, the others are told: they share no disk.
        restored = together(lambda: manager and checkpoints.restore(manager, like))
        step, state = from_first(on_host(restored or (-1, like)))
        self.members.restore(state)
        self.clock = max(int(step), 0)
        if resume:
            end = "" if self._in_turns else f" of {self.options.steps}"
            self.say(f"resuming after step {self.clock}{end}")
        return int(step)

    def _round(self, chosen: list[int]) -> None:
        """Trains some members up to the next step at which a hook reads their states."""
        begin, clock = {i: self.members.step(i) for i in chosen}, self.clock
        # A member that is judged has another target afterwards.
        targets = {i: self.members.target(i) for i in chosen}
        periods = [hook.steps for hook in self._hooks if hook.reads]
        ends = [
            min([targets[i], *(begin[i] - begin[i] % n + n for n in periods)]) - begin[i]
            for i in chosen
        ]
        self._ahead, self._tick = clock, time.monotonic()

        def report(step: int, metrics: Mapping[str, Sequence[float]], ended: bool) -> None:
            # From the end of the last step to the end of this one; between rounds hooks take time.
            now = time.monotonic()
            seconds, self._tick, self.clock = now - self._tick, now, clock + step
            self._first = self._first or (self.clock, now)
            rows: Rows = {
                i: {
                    "step": self.clock,
                    **self.members.labels(i, begin[i] + step),
                    **{name: values[at] for name, values in metrics.items()},
                    "examples_per_second": self.options.batch_size / seconds,
                }
                for at, i in enumerate(chosen)
            }
            for hook in self._hooks:
                due = {
                    i: row
                    for i, row in rows.items()
                    if (begin[i] + step) % hook.steps == 0 or begin[i] + step == targets[i]
                }
                # Until a round ends its states are on the device, and the next step donates them.
                if due and (ended or not hook.reads):
                    hook.action(self.clock, due)

        self.members.advance(chosen, min(ends), report, self._going)

    def _going(self) -> bool:
        """Whether the next step is made; all processes agree on that."""
        # All processes count the same steps: `preempted` makes them agree on one of these numbers.
        self._ahead += 1
        self.stopped |= preempted(self._ahead)
        return self._on()

    def _on(self) -> bool:
        return not (self.stopped or self.enough())

    def evaluate(self, clock: int, rows: Rows) -> None:
        """Judges members where they stand."""
        for i, row in rows.items():
            scores = self.members.judge(i).scores
            row.update({f"validation/{name}": value for name, value in scores.items()})
            shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            step = self.members.step(i)
            line = f"{self.members.title(i)}step {step:>6}  validation {shown}"
            self.say(Line(line, self._values(i, row)))

    def log(self, clock: int, rows: Rows) -> None:
        """Writes the rows of a step."""
        for i, row in rows.items():
            self._files[self.folders[i]].add(row)

    def save(self, clock: int, rows: Rows) -> None:
        """Writes a checkpoint, unless this step has one."""
        if self._manager and self._manager.latest_step() != clock:
            # Rows first: a checkpoint whose rows were lost in a power cut would leave a gap.
            for metrics in self._files.values():
                metrics.sync()
            checkpoints.save(self._manager, clock, self.members.checkpoint())

    def progress(self, clock: int, rows: Rows) -> None:
        """Says how far the run is, by the first of its members."""
        (i, row), *_ = rows.items()
        first, begun = self._first or (clock, 0.0)
        if clock == first:
            return  # The first step compiles: it says nothing about the others.
        self._foretold = True
        seconds = (time.monotonic() - begun) / (clock - first)
        left = int(seconds * (self.options.steps - clock))
        line = (
            f"{self.members.title(i)}step {clock:>6}/{self.options.steps}  "
            f"loss {row['loss']:.4f}  {row['examples_per_second']:.1f} examples/s  "
            f"{clock_time(left)} left"
        )
        self.say(Line(line, self._values(i, row) | {"seconds_left": left}))

    def foretell(self, clock: int, rows: Rows) -> None:
        """Says once how long a run will take, unless its first twentieth has said so before."""
        if self._foretold:
            return
        # Not the mean: a step of a length that was not there before compiles.
        self._paces += [row["examples_per_second"] for row in list(rows.values())[:1]]
        first, begun = self._first or (clock, 0.0)
        if clock < first + EARLY or time.monotonic() - begun < EARLY:
            return
        self._foretold = True
        seconds = self.options.batch_size / statistics.median(self._paces)
        left = int(seconds * (self.options.steps - clock))
        line = (
            f"about {clock_time(left)} left for {self.options.steps - clock:,} steps at "
            f"{seconds:.2g} s, beside evaluation"
        )
        self.say(Line(line, {"step": clock, "seconds_left": left}))

    def _values(self, index: int, row: Row) -> dict[str, object]:
        """The row of a member for programs."""
        member = self.members.title(index).strip(": ")
        return {**({"member": member} if member else {}), "step": row["step"], "metrics": row}
