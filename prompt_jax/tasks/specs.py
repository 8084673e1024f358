"""What a template does to a column: `{paragraph:plain}`, `{answers:any padded}`.

The formats of T5 need these; Python's own format specs, such as `{share:.2f}`, stand beside them.
"""

import re
import string
from collections.abc import Callable, Mapping
from typing import Any

from prompt_jax.tasks.text import Record

SEVERAL = ("any", "each")
"""Those of a target that is a list of right answers: the first one is learned, or all are."""
LISTS = (*SEVERAL, "commas")
"""Those that take a list as it is; to all others it is a text, its words parted by spaces."""


def items(cell: Any) -> list[Any]:
    """The right answers in a cell: a list, SQuAD's `{"text": [...]}`, or a single one."""
    if isinstance(cell, Mapping) and "text" in cell:
        cell = cell["text"]
    return cell if isinstance(cell, list) else [cell]


def _plain(text: str, row: Record) -> str:
    """The text without the markup of MultiRC."""
    return re.sub(r"</?b>", "", text.replace("<br>", " "))


def _fifths(score: Any, row: Record) -> str:
    """A score to the nearest 0.2, which makes STS-B's targets words."""
    return f"{round(float(score) * 5) / 5:.1f}"


def _padded(text: str, row: Record) -> str:
    """The text with space around every mark of punctuation, as T5 reads SQuAD."""
    return " ".join(re.sub(f"[{re.escape(string.punctuation)}]", r" \g<0> ", text).split())


def _sentences(passage: str, row: Record) -> str:
    """A passage of ReCoRD, with its highlights as sentences."""
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", passage)
    return passage.replace("\n@highlight\n", ". ")


def _starred(text: str, row: Record) -> str:
    """The text with stars around its pronoun: the word that WSC numbers, or DPR's first such word.

    Raises:
      ValueError: there is no such word, or the row does not name one.
    """
    if not {"pronoun"} & set(row) and not {"span2_text", "span2_index"} <= set(row):
        raise ValueError("the columns span2_text and span2_index, or pronoun, have to name it")
    if "pronoun" in row:
        pronoun = rf"(?<!\w){re.escape(row['pronoun'])}(?!\w)"
        return re.sub(pronoun, r"*\g<0>*", text, count=1)
    words, number = text.split(" "), int(row["span2_index"])
    word = words[number] if 0 <= number < len(words) else ""
    starred = re.sub(rf"(?<!\w){re.escape(row['span2_text'])}(?!\w)", r"*\g<0>*", word, count=1)
    if starred == word:
        raise ValueError(f"word {number} is {word!r} and not {row['span2_text']!r}")
    return " ".join([*words[:number], starred, *words[number + 1 :]])


SPECS: dict[str, Callable[[Any, Record], Any]] = {
    "plain": _plain,
    "fifths": _fifths,
    "padded": _padded,
    "sentences": _sentences,
    "starred": _starred,
    "commas": lambda texts, row: ", ".join(map(str, items(texts))),
    **dict.fromkeys(SEVERAL, lambda answers, row: items(answers)[0]),
}
"""By name, what it does to the value of a column; the row tells the rest."""
