"""Chats: messages become text by the tokenizer's own template, whatever route they come by.

    <|im_start|>user
    What is the capital of France?<|im_end|>
    <|im_start|>assistant

The text is what `apply_chat_template` of Transformers gives, byte for byte. It also knows where the
contents of the messages stand in it: a cut takes from them, and a control token inside is text.
"""

import functools
import hashlib
import itertools
import re
import weakref
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prompt_jax.config import InputError
from prompt_jax.tasks.text import Message, Messages, Places, Rendered, Text, place_of
from prompt_jax.trees import Tokenizer

SYSTEM = ("system", "developer")
"""Roles of a message that instructs and stands in front."""
QUESTION = Message("user", "?")
"""Any question: a template takes no answer alone."""
TRUSTED = (*SYSTEM, "assistant")
"""Roles whose control tokens are meant, such as the marks of thoughts."""
MARK = "\ue000{}\ue001"
"""Stands for a content while the frame around it is sought; templates keep it, trimming or not."""
TEAR = "\ue002"
"""Stands within a control token that a user has written, until it is torn there."""


class Turn(NamedTuple):
    """An answer as the assistant's turn."""

    cue: str
    """What stands in front, with which the assistant's turn begins; it tells how to tokenize."""
    words: str
    end: str
    """The special token that ends the turn; empty where the template has none."""


class Frame(NamedTuple):
    """What a template writes around the contents of messages."""

    pieces: tuple[str, ...]
    """One more than `order`."""
    order: tuple[int, ...]
    """Which message's content stands between two pieces."""


def messages_of(value: object, place: str) -> Messages:
    """The messages of a row, a request or a caller.

    Args:
      value: a list of `{"role": "user", "content": "..."}`; a content may be a list of parts of
        type text.
      place: begins every error.

    Raises:
      InputError: anything else, or no messages.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError(f"{place}: messages are a list of role and content, got {value!r:.80}")
    return tuple(_message(item, f"{place}, message {i}") for i, item in enumerate(value, start=1))


def is_chat(value: object) -> bool:
    """Whether the value of a column is a list of messages."""
    if not isinstance(value, list | tuple):
        return False
    kinds = [isinstance(i, Message) or (isinstance(i, Mapping) and "role" in i) for i in value]
    return bool(kinds) and all(kinds)


def _message(item: object, place: str) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping) or not isinstance(item.get("role"), str):
        raise InputError(f'{place} must be {{"role": "user", "content": "..."}}, got {item!r:.80}')
    content = item.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    kinds = {str(part.get("type", "text")) for part in parts if isinstance(part, Mapping)}
    if kinds - {"text"}:
        others = ", ".join(sorted(kinds - {"text"}))
        raise InputError(f"{place}: only parts of type text are read, got {others}")
    if not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"{place}, of role {item['role']!r}, has no text: its content is {content!r:.60}; "
            "write a text, or parts of type text"
        )
    return Message(item["role"], "".join(map(str, texts)))


def chat_text(messages: Messages) -> str:
    """A chat without a template: a single message is its words, several are a line each."""
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{role}: {content}" for role, content in messages)


def with_system(messages: Messages, system: str, *, empty: bool = False) -> Messages:
    """The messages with a system text in front, where they bring none of their own.

    Args:
      empty: whether a system text of no words is a turn too.
    """
    if not (system or empty) or (messages and messages[0].role in SYSTEM):
        return messages
    return (Message("system", system), *messages)


def template_of(tokenizer: Tokenizer | None) -> str:
    """The chat template of a tokenizer; empty where it has none."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # Several by name, as some have for tools.
        template = template.get("default")
    return template or ""


def template_hash(tokenizer: Tokenizer | None) -> str:
    """sha256 of the chat template; empty where there is none."""
    template = template_of(tokenizer)
    return hashlib.sha256(template.encode()).hexdigest() if template else ""


def rendered(tokenizer: Tokenizer, text: Text, index: int = 0) -> Rendered:
    """The text of a chat up to where the assistant begins to write.

    Args:
      text: with turns.
      index: of its row, for errors where the text itself names none.

    Raises:
      InputError: the tokenizer has no chat template, or the template refuses the messages.
    """
    turns, place = text.turns, place_of(text, index)
    words, pieces = _torn(tokenizer, turns, place)
    fields: list[tuple[int, int]] = []
    for i, (start, stop) in _contents(tokenizer, turns, words, place):
        role, content = turns[i]
        if content == text and text.columns:
            # A filled template: its own words stay, as those of the chat's template do.
            shift = start - content.find(words[start:stop])  # The content may have been trimmed.
            fields += [(max(a + shift, start), min(b + shift, stop)) for a, b in text.cuts]
        elif role not in SYSTEM:
            fields.append((start, stop))
    # Without fields nothing may be cut.
    chat = Rendered(words, text.place, tuple(fields or [(0, 0)]), candidates=text.candidates)
    chat.pieces = pieces
    return chat


def render(
    tokenizer: Tokenizer, messages: Messages, place: str, *, generation_prompt: bool = True
) -> str:
    """The text of messages, as `apply_chat_template` gives it.

    Args:
      place: begins every error.
      generation_prompt: whether it ends with the beginning of the assistant's turn.

    Raises:
      InputError: as `rendered`.
    """
    # Templates of chats need jinja2, and plain texts do not.
    from jinja2 import TemplateError

    if not template_of(tokenizer):
        raise no_template(place)
    dicts = [message._asdict() for message in messages]
    try:
        return tokenizer.apply_chat_template(
            dicts, tokenize=False, add_generation_prompt=generation_prompt
        )
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        roles = " ".join(role for role, _ in messages)
        system = any(role in SYSTEM for role, _ in messages)
        hint = "leave the system text out, " if system else ""
        raise InputError(
            f"{place}: the chat template refuses the messages ({error}), whose roles are {roles}; "
            f"{hint}write roles in the order that the template takes, or give plain text with "
            "--task.chat off"
        ) from error


def no_template(place: str) -> InputError:
    """The error of a chat whose tokenizer has no template."""
    return InputError(
        f"{place}: a chat needs a chat template, and the tokenizer has none, as those of base "
        "models have none; use the instruct version of the model, or plain text: "
        '--task.chat off, and --task.source "... {column} ..."'
    )


def answer_turn(tokenizer: Tokenizer, answer: str) -> Turn:
    """An answer as the assistant's turn.

    Raises:
      InputError: as `rendered`.
    """
    place = f"the answer {answer!r:.40}"
    cue, behind = _around(tokenizer, template_of(tokenizer))
    chat = _answered(tokenizer, answer, place)
    words = chat[len(cue) : len(chat) - len(behind)]
    if not (chat.startswith(cue) and chat.endswith(behind)):
        words = answer  # The cue opens more than a turn has, such as a place for thoughts.
    control = _controls(tokenizer).search(behind)
    end = behind[: control.start() + len(control[1])] if control else ""
    return Turn(cue, words, end)


def turn_ends(tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """The token that ends the assistant's turn; none where no chat template says it.

    Raises:
      InputError: as `rendered`.
    """
    if tokenizer is None or not template_of(tokenizer):
        return ()
    end = answer_turn(tokenizer, "").end
    return tuple(tokenizer(end, add_special_tokens=False)["input_ids"]) if end else ()


# By the template as well, because the template of a tokenizer can be replaced.
@functools.lru_cache(maxsize=8)
def _around(tokenizer: Tokenizer, template: str) -> tuple[str, str]:
    """What stands before an answer, and behind it."""
    cue = render(tokenizer, (QUESTION,), "an answer")
    return cue, _answered(tokenizer, MARK, "an answer").partition(MARK)[2]


def _answered(tokenizer: Tokenizer, answer: str, place: str) -> str:
    chat = (QUESTION, Message("assistant", answer))
    return render(tokenizer, chat, place, generation_prompt=False)


def _contents(
    tokenizer: Tokenizer, messages: Messages, words: str, place: str
) -> list[tuple[int, tuple[int, int]]]:
    """Which message's content stands where in the rendered text, in the order of the text."""
    frames = _FRAMES.setdefault(tokenizer, {})
    key = (template_of(tokenizer), tuple(role for role, _ in messages))
    for stale in (False, True):  # A frame may have the date in it.
        if stale or key not in frames:
            frames[key] = _frame(tokenizer, messages, place)
        pieces, order = frames[key]
        # Some templates write a content as it is, and others strip it.
        for trim in (str, str.strip):
            inside = [trim(messages[i].content) for i in order]
            parts = [*itertools.chain(*zip(pieces, inside, strict=False)), pieces[-1]]
            if words == "".join(parts):
                ends = list(itertools.accumulate(map(len, parts)))
                return [(i, (ends[2 * n], ends[2 * n + 1])) for n, i in enumerate(order)]
    return _between(frames[key], words)


def _frame(tokenizer: Tokenizer, messages: Messages, place: str) -> Frame:
    marked = tuple(Message(role, MARK.format(i)) for i, (role, _) in enumerate(messages))
    pieces = re.split("\ue000([0-9]+)\ue001", render(tokenizer, marked, place))
    return Frame(tuple(pieces[::2]), tuple(map(int, pieces[1::2])))


def _between(frame: Frame, words: str) -> list[tuple[int, tuple[int, int]]]:
    """The places of contents that a template has changed: between the pieces of the frame."""
    places, end = [], len(frame.pieces[0])
    for i, piece in zip(frame.order, frame.pieces[1:], strict=True):
        start = end
        last = i == frame.order[-1]
        stop = words.rfind(piece, start) if last else words.find(piece, start)
        if stop < 0:
            return []
        places.append((i, (start, stop)))
        end = stop + len(piece)
    return places


# Weak, so that the cache keeps no tokenizer alive.
_FRAMES: weakref.WeakKeyDictionary[Tokenizer, dict[tuple[str, tuple[str, ...]], Frame]] = (
    weakref.WeakKeyDictionary()
)
"""Frames by template and roles: a template costs more than the words that it writes."""


def _torn(tokenizer: Tokenizer, messages: Messages, place: str) -> tuple[str, Places]:
    """The text of a chat, and the parts of it that are tokenized apart.

    It is one part, unless people have written control tokens. Those are torn behind their first
    letter, and so are text.
    """
    # A message may have this letter too, which must not be taken for our mark.
    plain = [turn._replace(content=turn.content.replace(TEAR, "\ufffd")) for turn in messages]
    safe = tuple(
        turn if turn.role in TRUSTED else turn._replace(content=_tear(tokenizer, turn.content))
        for turn in plain
    )
    parts = render(tokenizer, safe, place).split(TEAR)
    edges = [0, *itertools.accumulate(map(len, parts))]
    return "".join(parts), tuple(itertools.pairwise(edges))


def _tear(tokenizer: Tokenizer, content: str) -> str:
    """A content with a mark within each of its control tokens, at which it is torn."""
    starts = [match.start() for match in _controls(tokenizer).finditer(content)]
    edges = [0, *(start + 1 for start in starts), len(content)]
    return TEAR.join(content[a:b] for a, b in itertools.pairwise(edges))


@functools.lru_cache(maxsize=8)
def _controls(tokenizer: Tokenizer) -> re.Pattern[str]:
    """What finds control tokens, at every letter: one may begin inside another."""
    tokens = getattr(tokenizer, "added_tokens_decoder", {}).values()
    # The longest first, since a pattern takes the first alternative that matches.
    names = sorted((str(token) for token in tokens if token.special), key=len, reverse=True)
    alternatives = "|".join(map(re.escape, names)) or "(?!)"
    return re.compile(f"(?=({alternatives}))")
