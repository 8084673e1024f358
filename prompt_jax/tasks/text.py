"""The text of a row, which still knows its columns."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

Record = Mapping[str, Any]
"""A row of a dataset: columns to texts, numbers, lists, or None where nothing is there."""
Places = tuple[tuple[int, int], ...]
"""Parts of a text in characters: the first one, and the one behind the last."""


class Message(NamedTuple):
    """A turn of a chat."""

    role: str
    """`system`, `user`, `assistant`, or what else a template takes."""
    content: str


Messages = tuple[Message, ...]


class Text(str):
    """A filled template; everywhere else it is the string that it looks like.

    Attributes:
      place: where its row stands, e.g. "train.tsv line 17"; empty of a text of no row.
      columns: where the values of the columns stand.
      cuts: what a cut may take from, never the words around it: all columns, or those that the
        template marks.
      words: where the words of lists stand, as they are in the list: with spaces inside, or empty.
      candidates: the answers that its row lets choose among.
      turns: the messages of a chat, to which the assistant answers; empty of plain text.
    """

    # No dictionary, which every text of a million would have, and the garbage collector go over.
    __slots__ = ("place", "columns", "words", "candidates", "turns", "cuts")

    place: str
    columns: Places
    words: Places
    candidates: tuple[str, ...]
    turns: Messages
    cuts: Places

    def __new__(
        cls,
        text: str,
        place: str = "",
        columns: Places = (),
        words: Places = (),
        candidates: tuple[str, ...] = (),
        turns: Messages = (),
        cuts: Places = (),
    ):
        """`text` as it is; all places are in it."""
        self = super().__new__(cls, text)
        self.place, self.columns, self.words = place, columns, words
        self.candidates, self.turns = candidates, turns
        self.cuts = cuts or columns
        return self

    def with_candidates(self, candidates: tuple[str, ...]) -> "Text":
        """The same text, with the candidates of its row."""
        return Text(self, self.place, self.columns, self.words, candidates, self.turns, self.cuts)

    def with_turns(self, turns: Messages) -> "Text":
        """The same text as a chat."""
        return Text(self, self.place, self.columns, self.words, self.candidates, turns, self.cuts)

    def behind(self, front: str) -> "Text":
        """The text with words in front of it, which are no column and are never cut."""
        text = front + self
        columns, words, cuts = (
            _moved(places, -len(front), len(text))
            for places in (self.columns or ((0, len(self)),), self.words, self.cuts)
        )
        return Text(text, self.place, columns, words, self.candidates, self.turns, cuts)

    def stripped(self, *, left: bool = True, right: bool = True) -> "Text":
        """The text without the space at its ends."""
        starts, stops = left and self[:1].isspace(), right and self[-1:].isspace()
        if not starts and not stops:  # As nearly always, and of a million rows.
            return self
        text = self.lstrip() if left else str(self)
        before = len(self) - len(text)
        text = text.rstrip() if right else text
        columns = _moved(self.columns, before, len(text))
        words = _moved(self.words, before, len(text))
        cuts = _moved(self.cuts, before, len(text))
        return Text(text, self.place, columns, words, self.candidates, self.turns, cuts)


class Rendered(Text):
    """A chat as its template writes it, special tokens and all.

    Attributes:
      pieces: the parts that are tokenized apart, so that no content holds a control token.
    """

    pieces: Places


def _moved(places: Places, before: int, length: int) -> Places:
    """Places in a text that has lost `before` characters in front and is `length` long."""
    return tuple(
        (min(max(start - before, 0), length), min(max(stop - before, 0), length))
        for start, stop in places
    )


def cuts_of(text: str) -> Places:
    """What a cut may take from; of a text of no template it is all."""
    cuts = text.cuts if isinstance(text, Text) else ()
    return cuts or ((0, len(text)),)


def words_of(text: str) -> Places:
    """Where the words of a text stand: those of its lists, else what spaces separate."""
    words = text.words if isinstance(text, Text) else ()
    return words or tuple(word.span() for word in re.finditer(r"\S+", text))


def place_of(text: str, index: int) -> str:
    """Where the row of a text stands, by its number from 0 when the text itself does not say."""
    place = text.place if isinstance(text, Text) else ""
    return place or f"row {index + 1}"
