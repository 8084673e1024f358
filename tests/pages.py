"""The blocks of code on the pages that people read, and what their commands are made of."""

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tyro

from prompt_jax import cli
from prompt_jax.cli import answering
from prompt_jax.cli.arguments import Answering, value_of
from prompt_jax.cli.options import method_options, options
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


def parsed(monkeypatch, arguments: list[str]) -> int:
    """The exit code of `prompt-jax` with arguments, of which nothing is run; see stderr for why.

    The runs and prompts that a page names are not there: a run to resume is written, and a prompt
    is taken to leave all options at their defaults.
    """
    parse = tyro.cli

    def hold(function, **options):
        @functools.wraps(function)
        def held(*values: object, **named: object) -> None:
            """Does nothing."""

        return parse(held, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tyro, "cli", hold)
        patch.setattr(answering, "trained_on", lambda _: Answering())
        if "--resume" in arguments:
            folder = Path(value_of(arguments, "--out") or Config.out)
            folder.mkdir(parents=True)
            begin_run(folder, Config())
        try:
            return cli.main(arguments)
        except SystemExit as end:
            return int(end.code or 0)


def flags(words: list[str]) -> set[str]:
    """The flags of a command such as `train` or `prompts list`, those of all methods too."""
    call = cli.COMMANDS[words[0]](words[1:])
    names = {option.flag for option in options(call.function)}
    if "--method" in names:
        kinds = method_kinds().values()
        names |= {option.flag for kind in kinds for option in method_options(kind)}
    return names | {"--help", "--help-all"}
