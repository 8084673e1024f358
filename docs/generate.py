"""Writes docs/reference: Python from `__all__`, flags from dataclasses, HTTP from OpenAPI.

conf.py calls it at the start of a build; nothing that it writes is committed.
"""

import dataclasses
import inspect
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, get_type_hints

import tyro
from sphinx.pycode import ModuleAnalyzer
from tyro.conf import Positional

import prompt_jax as pj
from prompt_jax import cli
from prompt_jax.cli import prompts
from prompt_jax.cli.arguments import Answering
from prompt_jax.cli.calls import Call
from prompt_jax.cli.options import literals
from prompt_jax.cli.output import Output
from prompt_jax.config import DistributedConfig, method_kinds


def write(folder: Path) -> None:
    """Writes every page of the reference."""
    folder.mkdir(exist_ok=True)
    pages = {"python": python(), "cli": command_line(), "options": options(), "http": http()}
    for name, text in pages.items():
        page = folder / f"{name}.md"
        # Sphinx reads a page again when its time changes.
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


PYTHON = """\
# Python reference

Look up a name of `import prompt_jax as pj` here: its arguments, its errors, its fields.
[In Python](../python.md) shows how they work together.

Letters in shapes: **B** batch, **T** text tokens, **P** virtual tokens, **S** = P + T, **U** target
tokens, **D** width, **H** heads, **K** head width, **V** vocabulary, **L** layers.
"""
SECTIONS = {
    "Start": "load_backbone init loss_fn fit start train_step State PromptTuningModel Backbone",
    "Saved prompts": "Prompt PeftFolder load_prompt save_prompt compose recycle compose_attention "
    "ensemble",
    "An experiment": "Config DataConfig TaskConfig TrainConfig EvalConfig BackboneConfig "
    "MeshConfig SweepConfig DistilConfig PaperConfig PaperTable PaperRow resolved InputError",
    "Methods": "PromptTuningConfig PrefixTuningConfig PTuningConfig PTuningV2Config "
    "DeepPromptConfig ResidualPromptConfig DecomposedPromptConfig MultitaskPromptConfig LoraConfig "
    "IA3Config BiasConfig NormConfig AdapterConfig PromptAdapterConfig FullConfig HeadConfig "
    "UnionConfig AdaptionPromptConfig CPTConfig",
}
"""The order of names that most readers look for; what is in no section follows."""


def python() -> str:
    """The page of all public names."""
    sections = {title: names.split() for title, names in SECTIONS.items()}
    listed = [name for names in sections.values() for name in names]
    unknown = sorted(set(listed) - set(pj.__all__))
    if unknown:
        raise LookupError(f"SECTIONS names {', '.join(unknown)}, which prompt_jax has not")
    sections["More names"] = [name for name in pj.__all__ if name not in listed]
    lines = [PYTHON]
    for title, names in sections.items():
        lines += ["", f"## {title}", ""]
        for name in names:
            kind = "autoclass" if inspect.isclass(getattr(pj, name)) else "autofunction"
            lines += [
                f"### {name}",
                "",
                "```{eval-rst}",
                f".. {kind}:: prompt_jax.{name}",
                "```",
                "",
            ]
    return "\n".join(lines)


class Flag(NamedTuple):
    """An option of a command."""

    name: str
    default: object
    text: str
    values: Sequence[object] = ()
    """Those that are allowed, where they are few."""


def is_group(value: object) -> bool:
    """Whether a default is a table of options and not one of them."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def fields(config: type) -> list[Flag]:
    """The fields of a dataclass, with the texts that stand under them."""
    texts: dict[str, str] = {}
    types = get_type_hints(config)
    for parent in reversed(config.__mro__[:-1]):
        documented = ModuleAnalyzer.for_module(parent.__module__).find_attr_docs()
        texts |= {
            name: " ".join(lines).strip()
            for (owner, name), lines in documented.items()
            if owner == parent.__name__
        }
    return [
        Flag(field.name, field.default, texts.get(field.name, ""), literals(types[field.name]))
        for field in dataclasses.fields(config)
        if field.init
    ]


def table(flags: Sequence[Flag], group: str = "") -> list[str]:
    """A table of options, without those that are groups of others."""
    lines = ["| option | default | |", "|---|---|---|"]
    for flag in flags:
        if is_group(flag.default):
            continue
        option = flag.name if flag.name.isupper() else f"--{group}{flag.name}".replace("_", "-")
        text = " ".join(flag.text.split()).replace("|", r"\|")
        values = ", ".join(f"`{value}`" for value in flag.values)
        text = f"{text[:1].upper()}{text[1:]}" + (f" One of {values}." if values else "")
        lines.append(f"| `{option}` | {_default(flag.default)} | {text} |")
    return [*lines, ""] if flags else []


def _default(value: object) -> str:
    if value in (inspect.Parameter.empty, dataclasses.MISSING, tyro.MISSING):
        return "needed"
    if value is None or value in ("", ()):
        return "none"
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown}`"


OPTIONS = """\
# Options

Look up what an option of the command line does, and its default. In Python each table is a
dataclass: `--train.steps 100` is `TrainConfig(steps=100)`. [Commands](cli.md) says which command
takes which group.
"""
GROUPS = {
    **{name: type(group) for name, group in vars(pj.Config()).items() if is_group(group)},
    "distributed": DistributedConfig,
    "sweep": pj.SweepConfig,
}
"""Options that several commands take, by the word before the dot."""


def options() -> str:
    """The page of the options that several commands take."""
    lines = [OPTIONS, "## `--method NAME`", "", "Every method has these options:", ""]
    common = fields(pj.MethodConfig)
    lines += table(common, "method.")
    names = {flag.name for flag in common}
    for name, config in sorted(method_kinds().items()):
        lines += [f"### `--method {name}`", "", _first(config.__doc__), ""]
        lines += table([flag for flag in fields(config) if flag.name not in names], "method.")
    for name, config in GROUPS.items():
        if name != "method":
            lines += [f"## `--{name}`", "", _first(config.__doc__), ""]
            lines += table(fields(config), f"{name}.")
    return "\n".join(lines)


def _first(doc: str | None) -> str:
    return inspect.cleandoc(doc or "").partition("\n\n")[0].replace("\n", " ")


COMMANDS = """\
# Commands reference

Look up a command here: its own options and the groups that it takes besides.
[Commands](../commands.md) has examples, [options](options.md) lists every group.
"""


def command_line() -> str:
    """The page of all commands."""
    lines = [COMMANDS]
    names = re.findall(r"^  (\w+) ", cli.USAGE, re.MULTILINE)
    if set(names) != set(cli.COMMANDS):
        raise LookupError("the usage of prompt-jax does not name the commands that there are")
    for name in names:
        if name == "prompts":
            lines += [
                "## prompt-jax prompts",
                "",
                "Inspect, convert, combine and publish prompts.",
                "",
            ]
            for action in prompts.ACTIONS:
                lines += command(f"prompts {action}", [action], prompts.run, "###")
        else:
            lines += command(name, [], cli.COMMANDS[name], "##")
    return "\n".join(lines)


def command(
    name: str, words: list[str], run: Callable[[list[str]], Call | None], heading: str
) -> list[str]:
    """A command: what it does, its own options, the groups that it takes."""
    call = run(words)
    if call is None:
        raise LookupError(f"prompt-jax {name} has no options of its own")
    function = call.function
    doc = inspect.cleandoc(function.__doc__ or "")
    summary, _, arguments = doc.partition("\nArgs:\n")
    texts = dict(re.findall(r"^  (\w+): (.*(?:\n    .*)*)", arguments, re.MULTILINE))
    ungrouped, groups = [], []
    for parameter in inspect.signature(function).parameters.values():
        place = Positional in getattr(parameter.annotation, "__metadata__", ())
        option = parameter.name.upper() if place else parameter.name
        text, values = texts.get(parameter.name, ""), literals(parameter.annotation)
        flags = [Flag(option, parameter.default, text, values)]
        if isinstance(parameter.default, pj.Config | Answering | Output):
            flags = fields(type(parameter.default))
        ungrouped += [f for f in flags if not is_group(f.default) and f.name != "method"]
        groups += [flag.name for flag in flags if is_group(flag.default) or flag.name == "method"]
    lines = [f"{heading} prompt-jax {name}", "", summary.strip(), "", *table(ungrouped)]
    if groups:
        links = [f"[--{name}](options.md#{_anchor(name)})" for name in groups]
        lines += [f"Groups: {', '.join(links)}.", ""]
    return lines


def _anchor(group: str) -> str:
    return "method-name" if group == "method" else group


HTTP = """\
# HTTP reference

Look up a route of `prompt-jax serve` here: the fields that a request may have, and those of its
answer. [Serving](../serving.md) explains keys, limits and errors. A running server gives the same
as JSON at `/openapi.json`.
"""


def http() -> str:
    """The page of all routes, as the server describes them."""
    spec = specification()
    lines = [HTTP, "## Routes", "", "| route | request | answer |", "|---|---|---|"]
    for path, methods in spec["paths"].items():
        for method, route in methods.items():
            request = _schema(route.get("requestBody", {}))
            answer = _schema(route["responses"].get("200", {}))
            lines.append(f"| `{method.upper()} {path}` | {request} | {answer} |")
    lines += ["", "Every error is a `Failure`.", "", "## Requests and answers", ""]
    for name, schema in sorted(spec["components"]["schemas"].items()):
        if not schema.get("properties"):
            continue
        lines += [f"### {name}", ""]
        lines += ["| field | type | default |", "|---|---|---|"]
        needed = schema.get("required", ())
        for field, value in schema["properties"].items():
            default = "needed" if field in needed else f"`{value.get('default')}`"
            lines.append(f"| `{field}` | {_type(value)} | {default} |")
        lines.append("")
    return "\n".join(lines)


def specification() -> dict:
    """OpenAPI of the server, for the embedded model and an empty store."""
    from prompt_jax.serve import Engine, Store
    from prompt_jax.serve.catalog import Catalog
    from prompt_jax.serve.http import create_app
    from prompt_jax.serve.http.keys import Keys

    with (
        tempfile.TemporaryDirectory() as folder,
        Engine(pj.load_backbone("embedded"), {}) as engine,
    ):
        return create_app(Catalog(engine, Store(Path(folder))), Keys()).openapi()


def _schema(body: dict) -> str:
    kinds = body.get("content", {})
    shown = [_type(content.get("schema", {})) for content in kinds.values()]
    return " or ".join(dict.fromkeys(kind for kind in shown if kind)) or ""


def _type(schema: dict) -> str:
    """A type in words, with links to what has fields of its own."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return schema.get("type", "")
