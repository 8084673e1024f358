"""The blocks of code on the pages that people read, and what their commands are made of."""

import dataclasses
import functools
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tyro

from prompt_jax import cli
from prompt_jax.cli import answering
from prompt_jax.cli.arguments import Answering, value_of
from prompt_jax.config import Config, method_kinds
from prompt_jax.runs import begin_run

ROOT = Path(__file__).parent.parent
SITE = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if {"_build", "reference"}.isdisjoint(page.parts) and "{include}" not in page.read_text()
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *SITE]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
ENDS = ("&&", "||", "|", "&", ";")
"""What stands between two commands of a line."""


class Block(NamedTuple):
    """A fenced block of a page.

    A comment before it, `<!-- not run: REASON -->` or `<!-- slow: REASON -->`, is its mark.
    """

    page: Path
    language: str
    """Empty is a block of commands; `text` is what a program prints or what a file holds."""
    text: str
    mark: str

    @property
    def name(self) -> str:
        """The page, and the first words of the block."""
        return f"{self.page.relative_to(ROOT)}: {' '.join(self.text.split())[:60]}"

    def commands(self) -> Iterator[list[str]]:
        """The words of each command, without variables in front and redirections behind."""
        for line in self.text.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word not in ENDS:
                    words.append(word)
                    continue
                words = words[: words.index(">")] if ">" in words else words
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words = words[1:]
                if words:
                    yield words
                words = []


def blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in the given languages, without directives of the site."""
    found = []
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text()):
            indent, language, text, mark = match.group("indent", "language", "text", "mark")
            block = Block(page, language, re.sub(rf"^{indent}", "", text, flags=re.M), mark or "")
            if not language.startswith("{") and (language in languages or not languages):
                found.append(block)
    return found


class Held:
    """Replaces `tyro.cli`: keeps the functions of commands, and calls none of them."""

    def __init__(self, parsing: bool = True):
        self.parsing, self.real, self.function = parsing, tyro.cli, None

    def __call__(self, function, **options):
        """Parses the arguments for a function as the command does, or only keeps the function."""
        self.function = function

        @functools.wraps(function)
        def hold(*values: object, **named: object) -> None:
            """Does nothing."""

        return self.real(hold, **options) if self.parsing else None


def parsed(monkeypatch, arguments: list[str]) -> int:
    """The exit code of `prompt-jax` with arguments, of which nothing is run; see stderr for why.

    The runs and prompts that a page names are not there: a run to resume is written, and a prompt
    is taken to leave all options at their defaults.
    """
    with monkeypatch.context() as patch:
        patch.setattr(tyro, "cli", Held())
        patch.setattr(answering, "trained_on", lambda _: Answering())
        if "--resume" in arguments:
            folder = Path(value_of(arguments, "--out") or Config.out)
            folder.mkdir(parents=True, exist_ok=True)
            begin_run(folder, Config())
        try:
            return cli.main(arguments)
        except SystemExit as end:
            return int(end.code or 0)


def options(monkeypatch, words: list[str]) -> set[str]:
    """The flags of a command such as `train` or `prompts list`, those of all methods too."""
    held = Held(parsing=False)
    with monkeypatch.context() as patch:
        patch.setattr(tyro, "cli", held)
        cli.COMMANDS[words[0]](words[1:])
    names = {"help", "help-all"}
    for parameter in inspect.signature(held.function).parameters.values():
        whole = isinstance(parameter.default, Config | Answering)
        names |= set(_flags("" if whole else parameter.name, parameter.default))
    if "method" in names:
        names |= {
            f"method.{field.name}" for kind in method_kinds().values() for field in _fields(kind)
        }
    return {f"--{name}".replace("_", "-") for name in names}


def _fields(config: object) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(config) if dataclasses.is_dataclass(config) else ()


def _flags(name: str, default: object) -> Iterator[str]:
    """The flags of a parameter: itself, and the fields of a table of options."""
    if name:
        yield name
        yield f"no-{name}" if "." not in name else ".no-".join(name.rsplit(".", 1))
    for field in _fields(default):
        yield from _flags(f"{name}.{field.name}".lstrip("."), getattr(default, field.name))
