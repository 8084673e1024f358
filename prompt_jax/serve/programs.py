"""Programs by what they are for, compiled in threads beside those that run.

A request waits for its own programs alone: whoever asks for what is there already is answered
meanwhile.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from prompt_jax.serve.requests import Kind

# Half of the cores at most: what is compiled must not slow down what is answered.
COMPILERS = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Lanes that are compiled at once."""


class Lane(NamedTuple):
    """Requests that need the same programs: those of all sizes of a batch."""

    kind: Kind
    part: frozenset[str]
    """Leaves that they read, see `Bank.parts`."""


class Programs:
    """Which lanes have their programs; the others are compiled one after the other."""

    def __init__(self) -> None:
        self.count = 0
        """Programs that are there."""
        self._lanes: dict[Lane, Future[None]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(COMPILERS, "prompt_jax.compiler")

    def of(
        self, lane: Lane, compile: Callable[[Lane], int], done: Callable[[Lane], None]
    ) -> "Future[None]":
        """The end of a lane's compilation, which begins here unless it has before.

        Args:
          compile: compiles all programs of a lane and returns how many, in a thread of the pool.
          done: called with the lane at the end, also where it failed.
        """
        with self._lock:
            future = self._lanes.get(lane)
            if future is not None:
                return future
            future = self._lanes[lane] = self._pool.submit(self._compile, lane, compile)
        # Without the lock: a compilation that has ended already is done in this thread, at once.
        future.add_done_callback(lambda _: done(lane))
        return future

    def has(self, lane: Lane) -> bool:
        """Whether the programs of a lane are there."""
        with self._lock:
            end = self._lanes.get(lane)
        return end is not None and end.done() and not end.cancelled() and end.exception() is None

    def _compile(self, lane: Lane, compile: Callable[[Lane], int]) -> None:
        count = compile(lane)
        with self._lock:
            self.count += count

    def failure(self, lane: Lane) -> BaseException | None:
        """Why a lane that was done has no programs; it is forgotten, and may be asked for anew."""
        with self._lock:
            future = self._lanes[lane]
            error = None if future.cancelled() else future.exception()
            if error is not None or future.cancelled():
                del self._lanes[lane]
            return error

    def close(self) -> None:
        """Compiles no more than what has begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
