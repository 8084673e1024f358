"""The options of a command, as its signature and the dataclasses in it say."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from tyro.conf import Positional

from prompt_jax.config import MethodConfig

Command = Callable[..., None]
"""What a command does; its signature has its options, its docstring their texts."""


class Option(NamedTuple):
    """An option of a command."""

    flag: str
    """As it is written, `--train.steps`."""
    values: Sequence[str] = ()
    """Those that are allowed, where they are few."""
    several: bool = False
    """Whether it takes several values."""


def options(command: Command) -> Iterator[Option]:
    """The options of a command, those of its method among them."""
    for parameter in inspect.signature(command).parameters.values():
        marks = getattr(parameter.annotation, "__metadata__", ())
        if Positional not in marks:
            unnamed = any(getattr(mark, "name", None) == "" for mark in marks)
            path = () if unnamed else (parameter.name,)
            yield from _options(path, parameter.annotation, parameter.default)


def method_options(method: type[MethodConfig]) -> Iterator[Option]:
    """The options of a method, `--method.NAME`."""
    hints = typing.get_type_hints(method)
    for field in dataclasses.fields(method):
        if field.init:
            yield from _options(("method", field.name), hints[field.name], field.default)


def _options(path: tuple[str, ...], kind: object, default: object) -> Iterator[Option]:
    if isinstance(default, MethodConfig):
        yield Option("--method")
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        hints = typing.get_type_hints(type(default))
        for field in dataclasses.fields(default):
            if field.init:
                value = getattr(default, field.name)
                yield from _options((*path, field.name), hints[field.name], value)
        return
    *groups, name = (word.replace("_", "-") for word in path)
    group = "".join(f"{word}." for word in groups)
    values = [str(value) for value in literals(kind)]
    yield Option(f"--{group}{name}", values, several=isinstance(default, tuple))
    if isinstance(default, bool):
        yield Option(f"--{group}no-{name}")


def literals(kind: object) -> list[object]:
    """The values of a Literal, also of one beside other types."""
    if typing.get_origin(kind) is Literal:
        return list(typing.get_args(kind))
    return [value for part in typing.get_args(kind) for value in literals(part)]
