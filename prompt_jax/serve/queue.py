"""Requests that wait: so many and no more, those of one kind together, every prompt in its turn."""

import dataclasses
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from prompt_jax.serve.errors import DeadlineError, QueueFullError
from prompt_jax.serve.slots import Version


class Kind(NamedTuple):
    """Rows of one kind can be answered by one program."""

    what: str
    """`score`, `classify`, `embed` or `write`."""
    length: int = 0
    """T, to which texts are padded."""
    count: int = 0
    """C, to which the candidates of a row are padded."""
    words: int = 0
    """U, to which the tokens of a candidate are."""


@dataclasses.dataclass(eq=False, kw_only=True)
class Row:
    """One text that one prompt is asked about."""

    version: Version
    kind: Kind
    tokens: np.ndarray
    asked: Any = None
    """What belongs to its kind: candidates, or how to write."""
    deadline: float | None = None
    """On the clock of `time.monotonic`."""
    arrived: float = dataclasses.field(default_factory=time.monotonic)
    future: "Future[Any]" = dataclasses.field(default_factory=Future)

    def settle(self, result: Any = None, error: Exception | None = None) -> None:
        """Tells the caller, who may have gone or know already."""
        if self.future.done() or not self.future.set_running_or_notify_cancel():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)

    def gone(self) -> bool:
        """Whether nobody waits any more, since the caller cancelled it or it is late."""
        if self.future.cancelled():
            return True
        if self.deadline is None or time.monotonic() < self.deadline:
            return False
        waited = time.monotonic() - self.arrived
        self.settle(
            error=DeadlineError(
                f"no answer within {waited:.3f} s; give it more time (timeout), or ask later"
            )
        )
        return True


class Queue:
    """Rows in the order in which they are answered; one lock of the engine's guards it.

    Args:
      limit: rows that may wait.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._waiting: OrderedDict[Kind, OrderedDict[str, deque[Row]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, rows: list[Row]) -> None:
        """Takes all of these or none.

        Raises:
          QueueFullError: there is no room for all.
        """
        if self._count + len(rows) > self.limit:
            raise QueueFullError(
                f"{self._count} requests wait and {self.limit} may; try again in a moment, or give "
                "the engine a longer queue"
            )
        for row in rows:
            turns = self._waiting.setdefault(row.kind, OrderedDict())
            turns.setdefault(row.version.digest, deque()).append(row)
        self._count += len(rows)

    def kinds(self) -> list[Kind]:
        """Kinds that somebody waits for, whoever has waited for longest first."""
        return sorted(self._waiting, key=lambda kind: min(row.arrived for row in self._first(kind)))

    def _first(self, kind: Kind) -> Iterator[Row]:
        return (rows[0] for rows in self._waiting[kind].values())

    def count(self, kind: Kind) -> int:
        """Rows of a kind that wait."""
        return sum(map(len, self._waiting.get(kind, {}).values()))

    def oldest(self, kind: Kind) -> float:
        """When the row of a kind that has waited for longest arrived."""
        return min(row.arrived for row in self._first(kind))

    def take(self, kind: Kind, most: int, prompts: int, held: Collection[str] = ()) -> list[Row]:
        """Up to so many rows of a kind, one of each prompt in turn, so that none keeps out others.

        Args:
          prompts: different ones among them, beside those of `held`; others wait on.
          held: digests that cost none.
        """
        turns = self._waiting.get(kind, OrderedDict())
        taken: list[Row] = []
        mine: set[str] = set()
        skipped: set[str] = set()
        while len(taken) < most and len(skipped) < len(turns):
            digest, rows = next(iter(turns.items()))
            turns.move_to_end(digest)
            new = bool(digest) and digest not in mine and digest not in held
            if digest in skipped or (new and len(mine) >= prompts):
                skipped.add(digest)
                continue
            row = rows.popleft()
            self._count -= 1
            if not rows:
                del turns[digest]
            if row.gone():
                continue
            if new:
                mine.add(digest)
            taken.append(row)
        if not turns:
            self._waiting.pop(kind, None)
        return taken

    def drain(self) -> list[Row]:
        """All rows, which wait no more."""
        rows = [row for turns in self._waiting.values() for own in turns.values() for row in own]
        self._waiting.clear()
        self._count = 0
        return rows
