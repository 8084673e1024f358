"""Configs as plain JSON types and back, and what differs between two."""

import dataclasses
import functools
import numbers
import os
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from prompt_jax.config.checks import InputError, choose
from prompt_jax.config.method import MethodConfig, method_kinds

T = TypeVar("T")


def to_json(config: object) -> Any:
    """The config as plain JSON types; tuples become lists, and a method names its kind."""
    if isinstance(config, tuple | list):
        return [to_json(value) for value in config]
    if not dataclasses.is_dataclass(config):
        return config
    kind = {"kind": config.kind} if isinstance(config, MethodConfig) else {}
    names = [f.name for f in dataclasses.fields(config)]
    return kind | {name: to_json(getattr(config, name)) for name in names}


def from_json(kind: type[T], values: Mapping[str, object]) -> T:
    """The reverse of `to_json`.

    Raises:
      InputError: a field that there is not, or a value that is none of its field's.
    """
    config: Any = kind
    if issubclass(kind, MethodConfig):
        values = {"kind": getattr(kind, "kind", None), **values}
        name = values.pop("kind")
        choose("method", name, method_kinds())
        config = method_kinds()[str(name)]
    fields = {f.name: f for f in dataclasses.fields(config)}
    if hasattr(config, "renewed"):
        values = config.renewed(values)
    for name in values:
        choose(f"field of {config.__name__}", name, fields)
    plain = config(**{n: _value(_default(fields[n]), value) for n, value in values.items()})
    check_types(config, {name: getattr(plain, name) for name in values})
    return plain


def make_plain(config: object) -> None:
    """Makes the values of a new config plain, as `config.json` has them, and checks their types.

    Raises:
      InputError: a value is not what its field is annotated with.
    """
    for name, value in vars(config).items():
        plain = plain_value(value)
        if plain is not value:
            object.__setattr__(config, name, plain)  # It is frozen, and not yet in use.
    check_types(type(config), vars(config))


def plain_value(value: object) -> object:
    """A number of numpy as one of Python, a list as a tuple, and a path as a text."""
    if isinstance(value, list | tuple):
        return tuple(map(plain_value, value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def check_types(kind: type, values: Mapping[str, object]) -> None:
    """Checks that values are of the types that the fields of a dataclass are annotated with.

    Raises:
      InputError: one is not.
    """
    hints = _hints(kind)
    for name, value in values.items():
        if not _is_of(value, hints[name]):
            annotation = next(f.type for f in dataclasses.fields(kind) if f.name == name)
            label = annotation.__name__ if isinstance(annotation, type) else annotation
            raise InputError(f"{kind.__name__} has {name} as {label}, got {str(value)[:80]!r}")


# They are looked up in the modules of a class and its bases, which takes longer than a check.
_hints = functools.cache(get_type_hints)


def _is_of(value: object, hint: object) -> bool:
    """Whether a value is what an annotation says, as far as plain JSON goes."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in parts
    if origin in (Union, types.UnionType):
        return any(_is_of(value, part) for part in parts)
    if origin is tuple and isinstance(value, tuple):
        hints = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(hints) == len(value) and all(map(_is_of, value, hints))
    if origin is dict and isinstance(value, dict):
        return all(_is_of(k, parts[0]) and _is_of(v, parts[1]) for k, v in value.items())
    if hint in (int, float):  # A whole number is a float, and True is neither.
        kinds = int if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    plain = origin or hint
    return plain is Any or not isinstance(plain, type) or isinstance(value, plain)


def _default(field: dataclasses.Field) -> object:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _value(default: object, value: Any) -> object:
    """A field's value: a config where the default is one, a tuple for a list."""
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        kind = MethodConfig if isinstance(default, MethodConfig) else type(default)
        return from_json(kind, value)
    if isinstance(value, list):
        return tuple(_value(None, item) for item in value)
    if isinstance(value, dict) and "kind" in value:
        return from_json(MethodConfig, value)
    return value


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lines `field: old -> new`, for every field in which two configs differ."""
    lines = []
    for f in dataclasses.fields(old):
        a, b = getattr(old, f.name), getattr(new, f.name)
        if dataclasses.is_dataclass(a) and type(a) is type(b):
            lines += differences(a, b, f"{prefix}{f.name}.")
        elif a != b:
            lines.append(f"{prefix}{f.name}: {a!r} -> {b!r}")
    return lines
