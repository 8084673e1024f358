"""What happens after every step: metrics, evaluation, checkpoints, progress."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

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

    def __call__(self, step: int, state: State, row: dict[str, float]) -> bool:
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        row = {"step": step, **row, "examples_per_second": self.options.batch_size / seconds}
        self.stopped |= preempted(step)
        ending = step == self.options.steps or self.stopped
        patience = self.options.patience
        if step % self.options.eval_every == 0 or step == self.options.steps:
            self.evaluate(step, state, row)
            ending |= patience is not None and int(self.best.since) >= patience
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


@contextlib.contextmanager
def on_sigterm(action: Callable[[], None]) -> Iterator[None]:
    """Calls `action` instead of dying; only the main thread may set a handler.

    Of several processes JAX has its own handler, see `preempted`.
    """
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield
        return
    earlier = signal.signal(signal.SIGTERM, lambda *_: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
