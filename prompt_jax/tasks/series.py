"""Long sequences of which a slice at a time is in memory.

A million rows are a few arrays of numbers so, and no million objects of Python.
"""

import contextlib
import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, overload

import numpy as np
from jaxtyping import Int

Item = TypeVar("Item")
Changed = TypeVar("Changed")

SLICE = 2048
"""Items that are read together when all are gone through."""
HELD = 10_000
"""Up to so many items are kept as objects, since they take next to no memory or time."""


class Series(Sequence[Item], Generic[Item]):
    """Items that are read whenever they are asked for.

    Args:
      read: the items of some numbers, in the order of these.
      rows: the number by which `read` knows each item.
      source: a digest of all that `read` gives; empty where there is none.
    """

    def __init__(
        self,
        read: Callable[[Int[np.ndarray, " N"]], list[Item]],
        rows: Int[np.ndarray, " N"],
        source: str = "",
    ):
        self._read, self._rows, self._source = read, rows, source

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> "Series[Item]": ...
    def __getitem__(self, index: int | slice) -> "Item | Series[Item]":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._read(self._rows[index][None])[0]

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self), SLICE):
            yield from self._read(self._rows[start : start + SLICE])

    def read(self, rows: Int[np.ndarray, " N"]) -> list[Item]:
        """The items of these places."""
        return self._read(self._rows[rows])

    def take(self, rows: Int[np.ndarray, " N"]) -> "Series[Item]":
        """The series of the items of these places."""
        return Series(self._read, self._rows[rows], self._source)

    def mapped(self, change: Callable[[Item], Changed], name: str) -> "Series[Changed]":
        """The series of changed items.

        Args:
          name: of the change and of all that it depends on, for the digest.
        """
        source = digest_of(self._source, name) if self._source else ""
        return Series(lambda rows: list(map(change, self._read(rows))), self._rows, source)

    @property
    def digest(self) -> str:
        """By which the same items are known again; empty where their source has none."""
        return digest_of(self._source, self._rows.tobytes()) if self._source else ""


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Leaves Python's search for cycles out while many rows are gone through, which have none.

    It would go over all that is in memory again and again, for a third of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def digest_of(*parts: str | bytes) -> str:
    """A digest of texts and bytes."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(b"%d:" % len(content) + content)
    return total.hexdigest()


def taken(items: Sequence[Item], rows: Int[np.ndarray, " N"]) -> Sequence[Item]:
    """The items of these places: of a series a series, of a list a list."""
    return items.take(rows) if isinstance(items, Series) else [items[i] for i in rows]


def read(items: Sequence[Item], rows: Int[np.ndarray, " N"]) -> list[Item]:
    """The items of these places."""
    return items.read(rows) if isinstance(items, Series) else [items[i] for i in rows]


def joined(parts: Sequence[Sequence[Item]]) -> Sequence[Item]:
    """Sequences end to end: a list where all are lists."""
    if len(parts) == 1:
        return parts[0]
    if not any(isinstance(part, Series) for part in parts):
        return [item for part in parts for item in part]
    ends = np.cumsum([len(part) for part in parts])
    starts = ends - [len(part) for part in parts]

    def read_parts(rows: Int[np.ndarray, " N"]) -> list[Item]:
        places = np.searchsorted(ends, rows, side="right")
        items: dict[int, Item] = {}
        for number in np.unique(places):
            inside = rows[places == number]
            items |= zip(inside.tolist(), read(parts[number], inside - starts[number]), strict=True)
        return [items[row] for row in rows.tolist()]

    digests = [part.digest if isinstance(part, Series) else "" for part in parts]
    source = digest_of(*digests) if all(digests) else ""
    return Series(read_parts, np.arange(ends[-1]), source)
