"""Bad input and the checks that name it."""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Bad input: says what was got, what is allowed and what to do; the command line exits 2."""


def choose(kind: str, value: object, allowed: Iterable[str]) -> None:
    """Checks that `value` is one of `allowed`, and names the nearest one when it is not."""
    allowed = list(allowed)
    if value in allowed:
        return
    spelled = {name.casefold(): name for name in allowed}
    near = difflib.get_close_matches(str(value).casefold(), spelled, n=1)
    hint = f" Perhaps you meant {spelled[near[0]]!r}?" if near else ""
    raise InputError(f"unknown {kind} {value!r}; allowed: {', '.join(allowed)}.{hint}")


def at_least(name: str, value: float, low: float, remedy: str = "") -> None:
    """Checks a lower bound, which NaN is not above."""
    if not value >= low:
        hint = f"; {remedy}" if remedy else ""
        raise InputError(f"{name} must be at least {low}, got {value}{hint}")


def finite(config: object, prefix: str, *names: str) -> None:
    """Checks fields that measure something, where they are not None.

    Args:
      prefix: of the fields' names in the message.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not math.isfinite(value):
            raise InputError(f"{prefix}{name} must be a finite number, got {value}")


def each_at_least_one(config: object, *names: str) -> None:
    """Checks fields that count something."""
    for name in names:
        at_least(name, getattr(config, name), 1)


def check_place(path: str | PathLike[str]) -> None:
    """Checks that a place to write is not `-`, by which other commands mean standard output."""
    if Path(path) == Path("-"):
        raise InputError(
            "- stands for standard output, and a file or a folder is written here; give its name"
        )


def implied(config: object, choices: Mapping[str, str], otherwise: str) -> str:
    """The choice that an option is given for, where the choice itself is left open.

    Args:
      choices: by option, the choice that reads it.
    """
    chosen = [name for name in choices if _is_set(config, name)]
    if len(chosen) > 1:
        words = " or ".join(f'"{choices[name]}"' for name in chosen)
        raise InputError(f"{' and '.join(chosen)} are given; say which one counts: init={words}")
    return choices[chosen[0]] if chosen else otherwise


def refuse_unread(config: object, prefix: str, only_with: Mapping[str, tuple[str, object]]) -> None:
    """Checks that no option is given that another one switches off.

    Args:
      prefix: of the options' names in the message.
      only_with: by option, the other one and the value under which the first is read.
    """
    for name, (switch, value) in only_with.items():
        if _is_set(config, name) and getattr(config, switch) != value:
            raise InputError(
                f"{prefix}{name} is {getattr(config, name)!r} and only {prefix}{switch}={value!r} "
                f"reads it; set that, or leave {prefix}{name} out"
            )


def _is_set(config: Any, name: str) -> bool:
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return getattr(config, name) != defaults[name]
