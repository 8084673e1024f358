"""Programs by what they are for, compiled in threads beside those that run.

A request waits for its own programs alone: a request for what is compiled already is answered
meanwhile.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from prompt_jax.serve.requests import Kind

# Few: XLA compiles each on several cores, and must leave some to what is answered.
COMPILERS = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Lanes that are compiled at once."""
KEPT = 16
"""Kinds that requests have brought and whose programs are kept, beside those of a warm-up."""


class Lane(NamedTuple):
    """Batches that are read, or boards that are written, by the same programs."""

    kind: Kind
    part: frozenset[str]
    """Leaves that they read, see `Bank.parts`."""
    rows: int = 0
    """Of a batch; 0 of a board, whose kind has them."""


class Programs:
    """Which lanes have their programs; the others are compiled one after the other.

    Memory grows with programs. Those that were asked for beforehand stay; of those that requests
    bring the kind that was unused for longest gives way.

    Args:
      forget: called with a kind whose programs nobody needs any more.
    """

    def __init__(self, forget: Callable[[Kind], None]):
        self._forget, self._counts = forget, dict[Lane, int]()
        self._lanes: dict[Lane, Future[None]] = {}
        self._stay: set[Kind] = set()
        self._brought: OrderedDict[Kind, None] = OrderedDict()  # The longest unused first.
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(COMPILERS, "prompt_jax.compiler")

    @property
    def count(self) -> int:
        """Programs that are there."""
        with self._lock:
            return sum(self._counts.values())

    def of(
        self,
        lane: Lane,
        compile: Callable[[Lane], int],
        done: Callable[[Lane], None],
        *,
        stays: bool,
    ) -> "Future[None]":
        """The end of a lane's compilation, which begins here unless it has before.

        Args:
          compile: compiles all programs of a lane and returns how many, in a thread of the pool.
          done: called with the lane at the end, also where it failed.
          stays: whether its programs are kept for good, and not only while they are in use.
        """
        with self._lock:
            self._note(lane.kind, stays)
            future = self._lanes.get(lane)
            if future is not None:
                return future
            future = self._lanes[lane] = self._pool.submit(self._compile, lane, compile)
            unused = self._take_unused()
        for kind in unused:
            self._forget(kind)
        # Without the lock: a compilation that has ended already is done in this thread, at once.
        future.add_done_callback(lambda _: done(lane))
        return future

    def _note(self, kind: Kind, stays: bool) -> None:
        """Notes that a kind is in use."""
        if stays:
            self._stay.add(kind)
            self._brought.pop(kind, None)
        elif kind not in self._stay:
            self._brought[kind] = None
            self._brought.move_to_end(kind)

    def _take_unused(self) -> list[Kind]:
        """Takes out the kinds that give way."""
        unused: list[Kind] = []
        for kind in list(self._brought)[: max(0, len(self._brought) - KEPT)]:
            lanes = [lane for lane in self._lanes if lane.kind == kind]
            if all(self._lanes[lane].done() for lane in lanes):
                for lane in lanes:
                    del self._lanes[lane]
                    self._counts.pop(lane, None)
                del self._brought[kind]
                unused.append(kind)
        return unused

    def has(self, lane: Lane) -> bool:
        """Whether the programs of a lane are there."""
        with self._lock:
            end = self._lanes.get(lane)
        return end is not None and end.done() and not end.cancelled() and end.exception() is None

    def _compile(self, lane: Lane, compile: Callable[[Lane], int]) -> None:
        count = compile(lane)
        with self._lock:
            self._counts[lane] = count

    def failure(self, lane: Lane, *, again: bool) -> BaseException | None:
        """Why a lane that was done has no programs.

        Args:
          again: whether it may be asked for anew.
        """
        with self._lock:
            future = self._lanes.get(lane)
            if future is None:  # It gave way at once.
                return None
            error = None if future.cancelled() else future.exception()
            if again and (error is not None or future.cancelled()):
                del self._lanes[lane]
            return error

    def close(self) -> None:
        """Compiles no more than what has begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
