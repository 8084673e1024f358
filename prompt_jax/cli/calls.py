"""A command as it is called: its function, the arguments for it, and its help."""

import contextlib
import functools
import inspect
import re
import typing
from collections.abc import Sequence
from typing import NamedTuple

import tyro
from tyro.conf import Positional
from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

from prompt_jax.cli import usage
from prompt_jax.cli.options import Command, options
from prompt_jax.config import InputError
from prompt_jax.runtime import quiet

SHORT = {
    "--lr": "--train.learning-rate",
    "--learning-rate": "--train.learning-rate",
    "--steps": "--train.steps",
    "--batch-size": "--train.batch-size",
    "--epochs": "--train.steps, which counts batches of --train.batch-size rows",
    "--seed": "--train.seed",
    "--task": "--data.task",
    "--dataset": "--data.task",
    "--data": "--data.task",
    "--labels": "--task.labels",
    "--model": "--backbone",
    "--output": "--out",
    "--out": "--output",
    "--train.tensorboard": "--train.loggers tensorboard",
}
"""Options as other programs or other commands call them, and what to write instead."""


class Call(NamedTuple):
    """A command with the arguments for it, not parsed yet."""

    name: str
    """As it is written behind `prompt-jax`."""
    function: Command
    arguments: list[str]

    @property
    def about(self) -> str:
        """What the command does, as its docstring says before the arguments."""
        return inspect.cleandoc(self.function.__doc__ or "").partition("\nArgs:\n")[0].strip()


LISTS = tyro.constructors.ConstructorRegistry()
"""How a flag of several values is written: `a,b`, `a, b` and `a b` alike, and `a\\,b` for one."""


@LISTS.primitive_rule
def _list(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[tuple[object, ...]] | None:
    kind, *rest = typing.get_args(info.type) or (None,)
    # Positional values are paths and texts, in which a comma is one.
    if info.type_origin is not tuple or rest != [...] or tyro.conf.Positional in info.markers:
        return None
    if kind not in (str, int, float):
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{kind.__name__.upper()} [{kind.__name__.upper()} ...]]",
        instance_from_str=lambda words: tuple(map(kind, split(words))),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [str(item).replace(",", r"\,") for item in value],
    )


@LISTS.primitive_rule
def _whole(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole(words[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


def whole(word: str) -> int:
    """The whole number that a word is, also as 1e3 or 1_000.

    Raises:
      ValueError: it is none.
    """
    with contextlib.suppress(ValueError):
        return int(word)
    with contextlib.suppress(ValueError):
        if float(word).is_integer():
            return int(float(word))
    raise ValueError(f"write a whole number such as 300 or 1e3, got {word!r}")


def split(words: Sequence[str]) -> list[str]:
    """The values in the words of a flag: commas part them too, but for one behind a backslash."""
    parts = [part for word in words for part in re.split(r"(?<!\\),", word)]
    return [part.strip().replace(r"\,", ",") for part in parts if part.strip()]


def parse(call: Call) -> None:
    """Calls a command with the arguments that its signature allows, or prints its help.

    `--help` shows the options that people use, where there are many, and `--help-all` all.
    """
    if {"-h", "--help"} & set(call.arguments) and (page := usage.short(call.name, call.about)):
        print(page, flush=True)
        return
    _check_names(call)
    arguments = ["--help" if word == "--help-all" else word for word in call.arguments]

    @functools.wraps(call.function)
    def function(*values: object, **options: object) -> None:
        quiet()
        call.function(*values, **options)

    about = "\n\n".join([call.about, *usage.examples(call.name)])
    prog = f"prompt-jax {call.name}"
    tyro.cli(function, prog=prog, description=about, args=arguments, registry=LISTS)


def _check_names(call: Call) -> None:
    """Names the option that is meant where another name of it is used."""
    positional = {
        name
        for name, parameter in inspect.signature(call.function).parameters.items()
        if Positional in getattr(parameter.annotation, "__metadata__", ())
    }
    flags = {option.flag for option in options(call.function)}
    for word in call.arguments:
        flag = word.partition("=")[0]
        name = flag.removeprefix("--")
        if flag in flags or not flag.startswith("--"):
            continue
        if {name, f"{name}s"} & positional:
            example = f"prompt-jax {call.name} {name.upper()}"
            raise InputError(f"{flag} is no option; write its value alone: {example}")
        if SHORT.get(flag, "").partition(",")[0].split(" ")[0] in flags:
            raise InputError(f"unknown option {flag}; write {SHORT[flag]}")
