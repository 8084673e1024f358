"""What a task is: two templates, the kind of its answers, and how answers are judged."""

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from jaxtyping import Float32, Int32

from prompt_jax.config import KINDS, InputError, choose
from prompt_jax.metrics import fits
from prompt_jax.tasks.chat import chat_text, is_chat, messages_of, template_of, with_system
from prompt_jax.tasks.templates import alternatives, fill, parse, reach
from prompt_jax.tasks.text import Message, Messages, Record, Text
from prompt_jax.trees import Tokenizer

NONE = "none"
"""What the label words of a multi label are compared with, one by one."""
NO_ANSWER = ("",)
"""The labels of a span task whose answer may be that there is none."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """How rows of one dataset become text, and how answers are judged."""

    name: str
    source: str
    """Template of the input; `{column}` stands for the text of a column."""
    target: str
    """Template of the target."""
    kind: str = ""
    """One of `KINDS`: `classification` among label words; `multi_label`, several of them or none;
    `generation` of a text; `tagging`, a tag for every word of the input; `span`, a part of the
    input; `regression`, a number;
    `multiple_choice`, one of the candidates of the row; `referent`, what a pronoun stands for.
    Empty is classification where there are labels, else generation."""
    labels: tuple[str, ...] = ()
    """The label words, or the tags; of a multiple choice the templates of the candidates, of a
    referent that of the one that a row asks about; of spans `NO_ANSWER` where a question may have
    none. Empty where an answer is any text."""
    values: tuple[tuple[str, str], ...] = ()
    """What rows write for a label word, and that word, e.g. ("0", "negative")."""
    metrics: tuple[str, ...] = ()
    """Names of metrics, the deciding one first; empty takes the defaults of the kind."""
    like: str = ""
    """The task of `TASKS` whose format this is; empty where there is none."""
    group: str = ""
    """Template of what rows that are judged together have in common, as those of one question."""
    chat: bool = False
    """Whether a text is a user's turn and its answer the assistant's, in the tokenizer's template.
    Rows of messages are nothing else."""
    system: str = ""
    """What stands in the system turn of a chat whose row brings none."""
    system_turn: bool = False
    """Whether every chat has a system turn, if one without words: a soft prompt stands in it."""
    template: str = ""
    """sha256 of the chat template; empty of plain text, and before a tokenizer is known."""

    def __post_init__(self):
        kind = self.kind or ("classification" if self.labels else "generation")
        choose("task.kind", kind, KINDS)
        row = KINDS[kind]
        if row.needs and not self.labels:
            raise InputError(
                f"task {self.name!r} is a {kind.replace('_', ' ')} and has no {row.needs}; set "
                "task.labels"
            )
        metrics = tuple(name for name in row.metrics if fits(name, self.labels))
        # The dataclass is frozen, and these two fields follow from the others.
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "metrics", self.metrics or metrics)

    @property
    def choices(self) -> tuple[str, ...]:
        """The label words to choose the whole answer among; empty for other kinds."""
        return self.labels if self.kind == "classification" else ()

    @property
    def ranked(self) -> tuple[str, ...]:
        """The words whose likelihoods make the answer; empty for kinds without any."""
        return (*self.labels, NONE) if self.kind == "multi_label" else self.choices

    @property
    def instruction(self) -> str:
        """What the task says in every row: its system text, or the words of its template."""
        words = "".join(piece.literal for piece in parse(self.source))
        return self.system or words.strip()

    def target_place(self, backbone_place: str) -> str:
        """Where a target stands to its input.

        Args:
          backbone_place: where the backbone has it, `Backbone.target_place`.
        """
        if backbone_place != "behind":
            return backbone_place
        if self.chat:
            return "turn"
        return "joined" if self.source[-1:].isspace() else "behind"


class Likely(NamedTuple):
    """The K likeliest words at every token of an answer, the very likeliest first."""

    words: Int32[Any, "*B U K"]
    log_probs: Float32[Any, "*B U K"]
    """Among all words, in nats; what they leave of a token's probability is that of all others."""


class Lesson(NamedTuple):
    """An answer as a teacher gives it."""

    tokens: Int32[Any, " U"]
    """The end token is there where the answer has come to its end."""
    likely: Likely


class Example(NamedTuple):
    """One pair of texts."""

    source: str
    target: str
    """The right answer: a text, a label word, a number, the tags of all words of the source, or
    nothing to a question without an answer."""
    others: tuple[str, ...] = ()
    """Further right answers, of which an evaluation takes the nearest."""
    start: int | None = None
    """Where in the source the target of a span begins, in characters."""
    group: str = ""
    """What rows that are judged together have in common."""
    lesson: Lesson | None = None
    """What a teacher says at every token of the target; None where there is no teacher."""

    @property
    def references(self) -> tuple[str, ...]:
        """Every right answer."""
        return (self.target, *self.others)


def filled_source(task: Task, row: Record, place: str) -> Text:
    """The source template, filled; of a row of messages, those before the assistant's answer."""
    messages = messages_in(task.source, row, place)
    if not messages:
        text = fill(task.source, row, place, "source")
        return as_chat(task, text) if task.chat else text
    if not task.chat:
        raise InputError(
            f"{place}: column {task.source} holds messages, and task.chat is off; leave it out, or "
            'write templates that reach inside: --task.source "{messages[0].content}"'
        )
    if messages[-1].role == "assistant":
        messages = messages[:-1]
    if not any(message.content.strip() for message in messages):
        raise InputError(f"{place}: no message with a text stands before the assistant's answer")
    return as_chat(task, Text(chat_text(messages), place, turns=messages))


def as_chat(task: Task, text: str) -> Text:
    """A text as the task's chat: a plain one is the user's turn."""
    text = text if isinstance(text, Text) else Text(text)
    turns = text.turns or (Message("user", text),)
    return text.with_turns(with_system(turns, task.system, empty=task.system_turn))


def conversation(
    task: Task | None, messages: Messages, tokenizer: Tokenizer | None, *, system_turn: bool = False
) -> Text:
    """Messages as a model reads them: in the tokenizer's chat template.

    Without a template, and under a prompt that was trained on plain text, they are plain text: a
    single message is its words, several are a line each.

    Args:
      task: what the prompt was trained on; its system text begins messages without
        one; None where there is no prompt, or nothing is known of it.
      system_turn: see `Task`, for a prompt of which no task is known.
    """
    text = Text(chat_text(messages), "messages")
    if not template_of(tokenizer) or (task is not None and not task.chat):
        return text
    system, empty = (task.system, task.system_turn) if task else ("", system_turn)
    return text.with_turns(with_system(messages, system, empty=empty))


def filled_target(template: str, row: Record, place: str) -> str:
    """The target template, filled; of a row of messages, what the assistant says last.

    Raises:
      InputError: there is no text, or the messages have no assistant's turn.
    """
    messages = messages_in(template, row, place)
    if not messages:
        return fill(template, row, place, "target")
    answers = [content for role, content in messages if role == "assistant"]
    if not answers or not answers[-1].strip():
        roles = " ".join(role for role, _ in messages)
        raise InputError(
            f"{place}: the messages have no assistant's turn with a text to learn from, only "
            f"{roles}; add the answer, or remove the row"
        )
    return answers[-1]


def filled_example(task: Task, row: Record, place: str) -> Example:
    """Both templates, filled."""
    target, *others = alternatives(task.target, row, place) or [
        filled_target(task.target, row, place)
    ]
    messages = messages_in(task.source, row, place) if task.source == task.target else ()
    if messages:  # What a user says behind the last answer has none to learn from.
        roles = [role for role, _ in messages]
        end = len(roles) - roles[::-1].index("assistant")
        row = {**row, lone_column(task.source): messages[:end]}
    return Example(filled_source(task, row, place), target, tuple(others))


def messages_in(template: str, row: Record, place: str) -> Messages:
    """The messages in a template's only column; none of a column of texts."""
    column = lone_column(template)
    cell = reach(row, column, place) if column else None
    return messages_of(cell, place) if is_chat(cell) else ()


@functools.lru_cache(maxsize=256)
def lone_column(template: str) -> str:
    """The column of a template that is one and nothing else, `{messages}`; else empty."""
    pieces = parse(template)
    column = str(pieces[0].column) if len(pieces) == 1 else ""
    return column if template == f"{{{column}}}" else ""


def unchanged(task: Task, examples: Sequence[Example]) -> Task:
    """The task as it is."""
    return task


def all_of(task: Task, examples: Sequence[Example]) -> Sequence[Example]:
    """The examples as they are."""
    return examples


def copied_input(
    task: Task, train: Sequence[Example], test: Sequence[Example]
) -> tuple[str, list[str]]:
    """The source of every test example as its answer."""
    return "copy input", [example.source for example in test]


@dataclass(frozen=True)
class Kind:
    """How the answers of a task stand in its rows.

    The last argument of `example` and `source` says where a row stands, and begins every error.
    """

    example: Callable[[Task, Record, str], Example] = filled_example
    """The texts of a row."""
    source: Callable[[Task, Record, str], Text] = filled_source
    """The input of a row that may have no target."""
    labels_in: Callable[[str, Record, str], list[str]] | None = None
    """The labels that the target template gives a row; None where targets have none."""
    complete: Callable[[Task, Sequence[Example]], Task] = unchanged
    """The task with what only training examples tell, such as the tags that there are."""
    taught: Callable[[Task, Sequence[Example]], Sequence[Example]] = all_of
    """What is trained on of examples that are scored: their answers as texts, each of several."""
    baseline: Callable[[Task, Sequence[Example], Sequence[Example]], tuple[str, list[str]]] = (
        copied_input
    )
    """Answers to test examples that need no model: what they are called, and a text each."""


def kind_of(name: str) -> Kind:
    """The kind of a name.

    Raises:
      InputError: there is none.
    """
    return kind_module(name).KIND


@functools.cache  # Every row of a file asks.
def kind_module(name: str) -> ModuleType:
    """The file of a kind in `prompt_jax.answers`.

    Raises:
      InputError: there is no kind of this name.
    """
    choose("task.kind", name, KINDS)
    # Imported by name when rows are read: these files run models, on floors above this one.
    return importlib.import_module(f"prompt_jax.answers.{KINDS[name].file}")


def check_some(examples: Sequence[Example], purpose: str) -> None:
    """Checks that there are examples.

    Raises:
      InputError: there are none.
    """
    if not examples:
        raise InputError(f"there are no examples to {purpose} on; give at least one")
