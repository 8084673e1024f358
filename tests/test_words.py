"""The words of README, docs, docstrings and help: short sentences, a purpose first, no riddles."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, ROOT, SITE

LONG = {"backbones", "distil", "results", "tasks"}
"""Pages that may have longer sentences still."""
TAUGHT = [ROOT / "README.md", *(page for page in SITE if page.stem not in LONG)]
LONGEST = 30
"""Words of a sentence."""
VERBS = set(
    "Add Answer Ask Build Change Check Choose Combine Compare Continue Copy Export Find Fit Give "
    "Import Learn Let Load Look Make Mix Move Name Plan Pick Prepare Put Read Run Score See Send "
    "Serve Set Spread Start Stop Train Tune Try Turn Understand Use Walk Work Write".split()
)
"""With one of these a page begins: what its reader can do after it."""
TURNS = {
    r"\bnot (be )?here\b": "say that you do not have it, or that it is not supported",
    r"\bat hand\b": "say `this machine`, `local devices`, or leave it out",
    r"\b(is|are|was|were|be) told\b": "say `is shown`, `is reported`, `gets`",
    r"\bas told\b": "say `as described`",
    r"\bwhoever\b": "say who: the caller, the client, the user",
    r"\bwhose [\w ]{1,20}stands? in\b": "say `where it is placed`",
    r"\bof (its|their) own\b[^.]*\bof (its|their|his) own\b": "say it once",
    r"(thousand|million|billion|,\d{3}|trained) numbers\b": "say `parameters`",
    r"\band right are\b": "subject first",
    r"\b(is|are|has|have|wait|written|asked for) no more\b[.,;]": "say `no longer`",
    r"\bin silence\b": "say `silently`",
    r"\b(prompt|folder|server|name)s? of ours\b": "name it: prompt_jax",
    r"\bstands? nowhere\b": "say where it is, or that it is not stored",
    r"\bread over\b": "say `ignored`",
}
"""Turns that a reader has to translate, and what to write instead."""


def plain(page: str) -> Iterator[str]:
    """The paragraphs of a page as text: no code, tables, headings; of a link its words."""
    text = re.sub(r"^ *```.*?^ *```|<!--.*?-->", "\n", page, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "Code", text))
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.) )", text):
        if not re.match(r"\s*(\||#|---)", paragraph):
            yield " ".join(paragraph.replace("**", "").split())


def sentences(page: str) -> list[str]:
    """The sentences of a page."""
    return [s for text in plain(page) for s in re.split(r"(?<=[.!?]) (?=[A-Z\"(])| · ", text) if s]


@pytest.mark.parametrize("page", TAUGHT, ids=lambda page: page.stem)
def test_sentences_are_short(page):
    long = [s for s in sentences(page.read_text()) if len(s.split()) > LONGEST]
    assert not long, "\n".join(f"{len(s.split())} words: {s}" for s in long)


def test_a_page_begins_with_what_its_reader_can_do():
    first = {page: next(filter(None, plain(page.read_text())), "") for page in SITE}
    wrong = [
        f"{page.relative_to(ROOT)}: {text[:60]}"
        for page, text in first.items()
        if text.partition(" ")[0].rstrip(":,") not in VERBS
    ]
    assert not wrong, "\n".join(wrong)


def texts() -> Iterator[tuple[Path, str]]:
    """What people read: pages whole, and of the code its docstrings, of which help is made."""
    for page in PAGES:
        yield page, page.read_text()
    for file in (ROOT / "prompt_jax").rglob("*.py"):
        for text in re.findall(r'"""(.*?)"""', file.read_text(), re.DOTALL):
            yield file, text


def test_nobody_has_to_read_it_twice():
    turns = {re.compile(turn, re.IGNORECASE): advice for turn, advice in TURNS.items()}
    wrong = []
    for path, text in texts():
        line = " ".join(text.split())
        for turn, advice in turns.items():
            for match in turn.finditer(line):
                near = line[max(0, match.start() - 40) : match.end() + 40]
                wrong.append(f"{path.relative_to(ROOT)}: {near!r}; {advice}")
    assert not wrong, "\n".join(wrong)
