"""A profile of a run: what every operation of some steps took, and where the device waited."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from prompt_jax.experiment.loop import Loop, Rows
from prompt_jax.processes import is_first


@contextlib.contextmanager
def profiling(loop: Loop, folder: Path, steps: int) -> Iterator[None]:
    """Writes a profile of devices and XLA while a loop runs, for TensorBoard or Perfetto.

    Args:
      steps: how many are in it, from the second one on, since the first one compiles; 0 writes
        nothing.
    """
    # One more than asked for: the first call starts the trace, after the step that compiles.
    left = steps + 1
    options = jax.profiler.ProfileOptions()
    # Without calls of Python: to end their trace beside threads that run has crashed processes.
    options.python_tracer_level = 0

    def trace(clock: int, rows: Rows) -> None:
        nonlocal left
        if left > steps:
            jax.profiler.start_trace(str(folder), profiler_options=options)
        left -= 1
        if left == 0:
            end()

    def end() -> None:
        jax.profiler.stop_trace()
        loop.say(f"profile in {folder}: tensorboard --logdir {folder}")

    if steps and is_first():
        loop.every(1, trace, reads=False)
    try:
        yield
    finally:
        if 0 < left <= steps:  # The run ended before the profile.
            end()
