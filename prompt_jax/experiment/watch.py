"""What happens after every step: metrics, evaluation, checkpoints, progress."""

import time
from collections.abc import Callable
from typing import Any

from prompt_jax import checkpoints
from prompt_jax.config import Config
from prompt_jax.experiment.choice import Best, Judgement
from prompt_jax.processes import preempted
from prompt_jax.runs import Metrics
from prompt_jax.sharding import on_host
from prompt_jax.train import State

Say = Callable[[str], None]


class Watch:
    """Called after every step of one run."""

    def __init__(
        self,
        config: Config,
        manager: Any,
        metrics: Metrics,
        score: Callable[[Any], Judgement],
        best: Best,
        say: Say,
    ):
        self.options, self.manager, self.metrics = config.train, manager, metrics
        self.score, self.best, self.say = score, best, say
        self.stopped = False
        self._clock = time.monotonic()
        self._begun: float | None = None
        self._done = 0

    def stop(self) -> None:
        """Ends training after the step that is under way."""
        self.stopped = True

    def due(self, step: int) -> bool:
        """Whether a step is evaluated, saved or the last one; to be asked once for each."""
        self.stopped |= preempted(step)
        return self.stopped or self._evaluates(step) or step % self.options.checkpoint_every == 0

    def _evaluates(self, step: int) -> bool:
        return step % self.options.eval_every == 0 or step == self.options.steps

    @property
    def patient(self) -> bool:
        """Whether a better prompt may still come, as `train.patience` has it."""
        patience = self.options.patience
        return patience is None or int(self.best.since) < patience

    def __call__(self, step: int, state: State | None, row: dict[str, float]) -> bool:
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        row = {"step": step, **row, "examples_per_second": self.options.batch_size / seconds}
        if state is None:
            self.metrics.add(row)
            self._progress(step, row, seconds)
            return False
        ending = step == self.options.steps or self.stopped
        if self._evaluates(step):
            self.evaluate(step, state, row)
            ending |= not self.patient
        else:
            self.metrics.add(row)
        if step % self.options.checkpoint_every == 0 or ending:
            self.save(step, state)
        self._progress(step, row, seconds)
        self._clock = time.monotonic()
        return ending

    def evaluate(self, step: int, state: State, row: dict[str, float]) -> None:
        """Scores the prompt of a step on validation and keeps it when it is the best."""
        tuned = on_host(state.tuned)
        judgement = self.score(tuned)
        self.best, scores = self.best.after(judgement, tuned, step), judgement.scores
        self.metrics.add({**row, **{f"validation/{name}": v for name, v in scores.items()}})
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        self.say(f"step {step:>6}  validation {shown}")

    def save(self, step: int, state: State) -> None:
        """Writes a checkpoint unless the step has one."""
        if self.manager and self.manager.latest_step() != step:
            self.metrics.sync()
            checkpoints.save(self.manager, step, (state, self.best))

    def _progress(self, step: int, row: dict[str, float], seconds: float) -> None:
        # The first step compiles: it says nothing about the others.
        if self._begun is None:
            self._begun = time.monotonic()
            return
        self._done += 1
        if step % max(self.options.steps // 20, 1) and step != self.options.steps:
            return
        each = (time.monotonic() - self._begun) / self._done
        left = int(each * (self.options.steps - step))
        self.say(
            f"step {step:>6}/{self.options.steps}  loss {row['loss']:.4f}  "
            f"{self.options.batch_size / seconds:.1f} examples/s  {left // 60}:{left % 60:02d} left"
        )
