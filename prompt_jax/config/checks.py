"""Bad input and the checks that name it."""

import difflib
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Bad input: says what was got, what is allowed and what to do; the command line exits 2."""


def choose(kind: str, value: Any, allowed: Iterable[str]) -> None:
    """Checks that `value` is one of `allowed`, and names the nearest one when it is not.

    Raises:
      InputError: `value` is not in `allowed`.
    """
    allowed = list(allowed)
    if value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f" Perhaps you meant {near[0]!r}?" if near else ""
    raise InputError(f"unknown {kind} {value!r}; allowed: {', '.join(allowed)}.{hint}")


def at_least(name: str, value: float, low: float, remedy: str = "") -> None:
    """Checks a lower bound.

    Raises:
      InputError: `value` is below `low`.
    """
    if value < low:
        hint = f"; {remedy}" if remedy else ""
        raise InputError(f"{name} must be at least {low}, got {value}{hint}")


def check_place(path: str | PathLike[str]) -> None:
    """Checks that a file or folder to write has a name.

    Raises:
      InputError: it is `-`, by which other commands mean standard output.
    """
    if Path(path) == Path("-"):
        raise InputError(
            "- stands for standard output, and a file or a folder is written here; give its name"
        )
