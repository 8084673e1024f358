"""A command as it is called: its function, the arguments for it, and its help."""

import functools
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tyro
from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

from prompt_jax.cli import usage
from prompt_jax.runtime import quiet

Command = Callable[..., None]
"""What a command does; its signature has its options, its docstring their texts."""


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
    # Positional values are paths, in which a comma is one.
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
    arguments = ["--help" if word == "--help-all" else word for word in call.arguments]

    @functools.wraps(call.function)
    def function(*values: object, **options: object) -> None:
        quiet()
        call.function(*values, **options)

    about = "\n\n".join([call.about, *usage.examples(call.name)])
    prog = f"prompt-jax {call.name}"
    tyro.cli(function, prog=prog, description=about, args=arguments, registry=LISTS)
