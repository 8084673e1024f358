"""What a run says: lines for a reader, with what programs and terminals make of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Say = Callable[[str], None]
"""Receives the lines of a run; `print` is one."""
WARNING = "warning: "
"""What the line of a warning begins with."""


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


def in_part(say: Say) -> Say:
    """For a part of a larger run: its results are plain lines, as the run has one of its own."""
    return lambda line: say(Line(line, getattr(line, "values", {})))
