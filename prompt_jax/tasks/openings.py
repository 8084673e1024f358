r"""What a chat template writes right before the texts of its turns, in tokens.

    <|im_start|>user\n

It is found by asking the template, with texts of several beginnings: tokens that are the same for
all of them belong to the template.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prompt_jax.config import IN_CHATS, InputError, Opening
from prompt_jax.config.method import ChatPlace
from prompt_jax.tasks.chat import QUESTION, render, template_of
from prompt_jax.tasks.text import Message, Messages
from prompt_jax.trees import Tokenizer

WORDS = ("a", "Q", "7")
"""Beginnings of usual texts."""
JOINING = (" b", "  c", "\nd", "\n\ne", "(f")
"""Those that a tokenizer may join with the end of what the template writes before."""
SYSTEM = Message("system", "Be kind.")
ANSWER = Message("assistant", "Yes.")
CHATS: dict[ChatPlace, tuple[tuple[Messages, int], ...]] = {
    "system": (((SYSTEM, QUESTION), 0), ((SYSTEM, QUESTION, ANSWER, QUESTION), 0)),
    "turn": (
        ((QUESTION,), 0),
        ((QUESTION, ANSWER, QUESTION), 0),
        ((SYSTEM, QUESTION), 1),
        # Or the end of one system text would be taken for the template's.
        ((Message("system", "Judge films"), QUESTION), 1),
    ),
}
"""Chats that have the turn, and which message it is."""
Tokens = tuple[int, ...]


class Head(NamedTuple):
    """The tokens of a chat before the text of a turn."""

    tokens: Tokens
    """The same before every text."""
    tail: Tokens
    """Behind them, the same before usual texts."""


def openings(tokenizer: Tokenizer | None) -> tuple[Opening, ...]:
    """The openings of a tokenizer's chat template; none without a template.

    A turn has none where the template does not write it, or opens it with nothing of its own.
    """
    if tokenizer is None or not template_of(tokenizer):
        return ()
    turns = (_opening(place, list(_heads(tokenizer, place))) for place in IN_CHATS)
    return tuple(opening for opening in turns if opening is not None)


def _opening(place: ChatPlace, heads: Sequence[Head]) -> Opening | None:
    """The tokens with which all heads end, if these occur nowhere before."""
    if not heads:
        return None
    tokens, tail = heads[0]
    if any(head.tail != tail for head in heads):
        tail = ()
    shared = _shared([head.tokens[::-1] for head in heads])[::-1]
    ends = [_first(head.tokens, shared) + len(shared) for head in heads]
    if shared and ends == [len(head.tokens) for head in heads]:
        return Opening(place, shared, tail)
    # A template may write the system's text into the user's turn, which is open before it then.
    if place == "turn" and tokens and all(_first(head.tokens, tokens) >= 0 for head in heads):
        return Opening(place, tokens)
    return None


def _heads(tokenizer: Tokenizer, place: ChatPlace) -> Iterator[Head]:
    """The heads of all chats that the template takes."""
    for chat, number in CHATS[place]:

        def tokens(text: str, chat: Messages = chat, number: int = number) -> Tokens:
            turn = chat[number]._replace(content=text)
            words = render(tokenizer, (*chat[:number], turn, *chat[number + 1 :]), "a chat")
            return tuple(tokenizer(words, add_special_tokens=False)["input_ids"])

        with contextlib.suppress(InputError):
            usual = _shared([tokens(text) for text in WORDS])
            # The system's turn may have no text at all.
            others = (*JOINING, "") if place == "system" else JOINING
            every = _shared([usual, *map(tokens, others)])
            yield Head(every, usual[len(every) :])


def _shared(rows: Sequence[Tokens]) -> Tokens:
    """The tokens with which all rows begin."""
    same = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        same += 1
    return rows[0][:same]


def _first(row: Tokens, tokens: Tokens) -> int:
    """Where in a row the tokens first stand; -1 if nowhere."""
    size = len(tokens)
    return next((i for i in range(len(row) - size + 1) if row[i : i + size] == tokens), -1)
