"""How a command prints the lines of a run: for a reader, for a log, or for programs."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from prompt_jax.lines import WARNING, Line, Panel


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is printed."""

    quiet: bool = False
    """Print only warnings and the final table."""
    log_format: Literal["text", "json"] = "text"
    """json prints an object a line with `level` and `message`, and `step`, `metrics` or `results`
    where the line has some."""

    def say(self, line: str) -> None:
        """Prints a line of a run."""
        panel = line.panel if isinstance(line, Line) else None
        warns = line.startswith(WARNING)
        if self.quiet and not (panel or warns):
            return
        if self.log_format == "json":
            level = "result" if panel else "warning" if warns else "info"
            values = line.values if isinstance(line, Line) else {}
            message = line.removeprefix(WARNING).strip()
            written = _plain({"level": level, "message": message, **values})
            print(json.dumps(written, ensure_ascii=False), flush=True)
        elif panel and sys.stdout.isatty():
            _show(panel)
        else:
            print(line, flush=True)


Printed = Annotated[Output, tyro.conf.arg(name="")]
"""Its fields are flags of the command itself."""


def _plain(value: object) -> object:
    """A value as JSON has it, in which a number is finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | int) or value is None:
        return value
    number = float(value)  # pyright: ignore[reportArgumentType]
    return number if math.isfinite(number) else None


def _show(panel: Panel) -> None:
    """Prints a result on a terminal: the table, what else there is to know, what to run next."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console, Group
    from rich.panel import Panel as Frame
    from rich.table import Table
    from rich.text import Text

    head, *rows = panel.rows
    scores = Table(box=SIMPLE_HEAD)
    for i, name in enumerate(head):
        scores.add_column(Text(name), justify="right" if i else "left")
    for row in rows:
        scores.add_row(*map(Text, row))
    width = max(map(len, panel.facts), default=0)
    lines = [Text(f" {name:<{width}}  {fact}") for name, fact in panel.facts.items()]
    if panel.commands:
        lines += [Text(), Text(" next")]
        lines += [Text(f"   {command}", style="bold") for command in panel.commands]
    Console().print(Frame(Group(scores, *lines), title=Text(panel.title), expand=False))
