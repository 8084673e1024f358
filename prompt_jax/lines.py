"""What a run says: lines for a reader, with what programs and terminals make of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Say = Callable[[str], None]
"""Receives the lines of a run; `print` is one."""
WARNING = "warning: "
"""What the line of a warning begins with."""
PACE = 10.0
"""Seconds of work without a line, after which one says how far the work is."""


def silent(line: str) -> None:
    """Says nothing."""


class Panel(NamedTuple):
    """A result, as a terminal shows it."""

    title: str
    """What it is of."""
    rows: Sequence[Sequence[str]]
    """The cells of its table, the head first."""
    facts: Mapping[str, str]
    """By name, what else there is to know."""
    commands: Sequence[str] = ()
    """What to run next."""


class Line(str):
    """A line, or a result of several; everywhere else it is the string that it looks like.

    Attributes:
      values: the same for programs, such as the step and its metrics.
      panel: of a result, the same for a terminal.
    """

    __slots__ = ("values", "panel")

    values: Mapping[str, object]
    panel: Panel | None

    def __new__(cls, text: str, values: Mapping[str, object], panel: Panel | None = None):
        """`text` as it is."""
        self = super().__new__(cls, text)
        self.values, self.panel = values, panel
        return self


def clock_time(seconds: int) -> str:
    """Seconds as minutes and seconds, or as hours, minutes and seconds."""
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Pace:
    """Says how many rows of some work are done, and how long the others will take.

    Work of less than `PACE` seconds gets no line, and longer work one line in so many seconds.

    Args:
      work: what each line begins with.
    """

    def __init__(self, say: Say, work: str):
        self._say, self._work = say, work
        self._begun = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Notes how many rows of all are done by now."""
        now = time.monotonic()
        if now - self._last < PACE or done >= total:
            return
        self._last = now
        left = clock_time(int((now - self._begun) * (total - done) / done))
        line = f"{self._work}: {done:,} of {total:,} rows, {left} left"
        self._say(Line(line, {"rows": done, "total": total}))


def in_part(say: Say) -> Say:
    """For a part of a larger run: its results are plain lines, as the run has one of its own."""
    return lambda line: say(Line(line, getattr(line, "values", {})))
