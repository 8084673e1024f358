"""Configs as plain JSON types and back, and what differs between two."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from prompt_jax.config.checks import choose
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
    """The reverse of `to_json`."""
    config: Any = kind
    if issubclass(kind, MethodConfig):
        values = {"kind": getattr(kind, "kind", None), **values}
        name = values.pop("kind")
        choose("method", name, method_kinds())
        config = method_kinds()[str(name)]
    fields = {f.name: f for f in dataclasses.fields(config)}
    for name in values:
        choose(f"field of {config.__name__}", name, fields)
    return config(**{n: _value(_default(fields[n]), value) for n, value in values.items()})


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
