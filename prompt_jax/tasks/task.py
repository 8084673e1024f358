"""What a task is: two templates, the kind of its answers, and how answers are judged."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

from prompt_jax.config import KINDS, InputError, choose
from prompt_jax.metrics import fits
from prompt_jax.tasks.templates import fill
from prompt_jax.tasks.text import Record, Text

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
    """One of `KINDS`: `classification` among label words; `generation` of a text; `tagging`, a tag
    for every word of the input; `span`, a part of the input; `regression`, a number;
    `multiple_choice`, one of the candidates of the row. Empty is classification where there are
    labels, else generation."""
    labels: tuple[str, ...] = ()
    """The label words, or the tags; of a multiple choice the templates of the candidates; of spans
    `NO_ANSWER` where a question may have none. Empty where an answer is any text."""
    values: tuple[tuple[str, str], ...] = ()
    """What rows write for a label word, and that word, e.g. ("0", "negative")."""
    metrics: tuple[str, ...] = ()
    """Names of metrics, the deciding one first; empty takes the defaults of the kind."""

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
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "metrics", self.metrics or metrics)

    @property
    def choices(self) -> tuple[str, ...]:
        """The label words to choose the whole answer among; empty for other kinds."""
        return self.labels if self.kind == "classification" else ()


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

    @property
    def references(self) -> tuple[str, ...]:
        """Every right answer."""
        return (self.target, *self.others)


def filled_source(task: Task, row: Record, place: str) -> Text:
    """The source template, filled."""
    return fill(task.source, row, place, "source")


def filled_example(task: Task, row: Record, place: str) -> Example:
    """Both templates, filled."""
    return Example(filled_source(task, row, place), fill(task.target, row, place, "target"))


def unchanged(task: Task, examples: Sequence[Example]) -> Task:
    """The task as it is."""
    return task


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
    labels_in: Callable[[str], list[str]] | None = None
    """The labels in a target; None where targets have none."""
    complete: Callable[[Task, Sequence[Example]], Task] = unchanged
    """The task with what only training examples tell, such as the tags that there are."""
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
