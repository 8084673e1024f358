"""Rows of a dataset as pairs of texts."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Int

from prompt_jax.config import IN_CHATS, KINDS, PLACEMENTS, InputError, TaskConfig, choose
from prompt_jax.tasks.chat import no_template, template_hash
from prompt_jax.tasks.labels import in_order, infer, read_labels
from prompt_jax.tasks.series import HELD, Series, taken
from prompt_jax.tasks.table import TASKS, parse_name
from prompt_jax.tasks.task import Example, Task, kind_of, lone_column, messages_in
from prompt_jax.tasks.templates import (
    check_column,
    columns_in,
    fill,
    is_empty,
    is_missing,
    listing,
    parse,
    path_of,
    reach,
)
from prompt_jax.tasks.text import Record, Text
from prompt_jax.trees import Tokenizer

SHAPES = (
    ("{input}", "{target}"),
    ("{messages}", "{messages}"),
    ("{prompt}", "{completion}"),
    ("{instruction}\n{input}", "{output}"),
    ("{instruction}", "{output}"),
    ("{text}", "{label}"),
)
"""Templates of rows that nobody described, the first whose columns are there: chats and texts as
OpenAI, TRL and Alpaca write them, and texts with labels as most datasets do."""
SHOWN = 3
"""Rows that an error names, of all that do not fit."""


def resolve(
    name: str,
    config: TaskConfig,
    columns: Iterable[str],
    rows: Sequence[tuple[str, Record]] = (),
) -> Task:
    """The task of a name, with the user's fields over the known ones.

    A dataset nobody described needs no template when its columns are those of `SHAPES`, and no
    label words when its targets are few, short and repeat.

    Args:
      name: as for `parse_name`.
      config: the user's templates, label words and metrics; empty fields take the known ones.
      columns: the columns of the dataset.
      rows: where each training row stands and its values; without them no labels are inferred.

    Raises:
      InputError: no template is known or given, a template names a column that is not there, or
        label words that cannot be.
    """
    key = parse_name(name).key
    columns = list(columns)
    source, target, described = _templates(name, config, columns)
    # Its labels and metrics are of its own kind, and its metrics of its own labels.
    same = described if described and config.kind in (None, described.kind) else None
    # A text, until there are label words.
    declared = described.kind if described and described.kind != "generation" else ""
    kind = config.kind or declared
    labels, values = read_labels(config.labels)
    labels, values = (labels, values) if labels or not same else (same.labels, same.values)
    # A dataset that nobody described may be a classification.
    labels_in = kind_of(kind or "classification").labels_in
    if labels_in and (kind or not known(name, config)):
        targets = _counts(labels_in, target, rows, None if kind else HELD)
        if not labels and kind in ("", "classification", "multi_label"):
            labels = infer(targets, config)
        values = values or in_order(labels, targets)
    group = _group(described, columns)
    # Labels may be the same in other words, as those of QQP and MRPC.
    measured = same.metrics if same and len(same.labels) == len(labels) else ()
    measured = tuple(name for name in measured if group or name != "grouped_match")
    return Task(
        name=key,
        source=source,
        target=target,
        kind=kind,
        labels=labels,
        values=values,
        metrics=config.metrics or measured,
        like=described.like if described else "",
        group=group,
        chat=config.chat == "on" or (config.chat == "auto" and _has_messages(source, rows)),
        system=config.system,
    )


def _counts(
    labels_in: Callable[[str, Record, str], list[str]],
    template: str,
    rows: Iterable[tuple[str, Record]],
    most: int | None,
) -> dict[str, int]:
    """How often the targets of rows have each label, in the order in which these first come.

    Args:
      labels_in: of a `Kind`.
      template: of the targets.
      rows: where each stands and its values.
      most: texts are no labels where there are more; then the rest is not read.
    """
    column = lone_column(template)
    # A million cells are a few words, whose labels are read once.
    read: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for place, row in rows:
        cell = row.get(column)
        labels = read.get(cell) if isinstance(cell, str) else None
        if labels is None:
            labels = labels_in(template, row, place)
            if isinstance(cell, str) and len(read) < HELD:
                read[cell] = labels
        for label in labels:
            counts[label] = counts.get(label, 0) + 1
        if most is not None and len(counts) > most:
            break
    return counts


def known(name: str, config: TaskConfig) -> Task | None:
    """The task whose format the rows of a dataset have; None where nobody described it.

    Raises:
      InputError: no such task as `task.like` says.
    """
    if config.like:
        choose("task.like", config.like, TASKS)
    return TASKS.get(config.like or parse_name(name).key)


def _group(described: Task | None, columns: list[str]) -> str:
    """The template of the group that a row is judged in; empty where rows do not tell."""
    template = described.group if described else ""
    reached = {path_of(column, columns)[0] for column in columns_in(template)}
    return template if reached <= set(columns) else ""


def _templates(name: str, config: TaskConfig, columns: list[str]) -> tuple[str, str, Task | None]:
    """Source and target of a dataset, and what is known of it."""
    described = known(name, config)
    for source, target in SHAPES:
        names = {*columns_in(source), *columns_in(target)}
        if not described and names <= set(columns):
            described = Task(name=name, source=source, target=target)
    source = config.source or (described and described.source)
    target = config.target or (described and described.target)
    if not source or not target:
        raise InputError(
            f"{name} has the columns {', '.join(columns)} and no known templates; give "
            '--task.source "... {column} ..." and --task.target "{column}"'
        )
    if any(piece.cut for piece in parse(target)):
        raise InputError(
            f"template {target!r} of the target has !cut, which is for inputs; a target that is "
            "too long always loses its end (data.max_target_length)"
        )
    _check_templates(source, target, columns, name)
    return source, target, described


def _has_messages(template: str, rows: Sequence[tuple[str, Record]]) -> bool:
    """Whether the first row has messages where others have texts."""
    return bool(rows) and bool(messages_in(template, rows[0][1], rows[0][0]))


def _check_templates(source: str, target: str, columns: list[str], name: str) -> None:
    for template in (source, target):
        names = columns_in(template)
        if not names:
            raise InputError(f"template {template!r} names no column; allowed: {listing(columns)}")
        for column in names:
            check_column(column, columns, name)


def to_example(task: Task, row: Record, place: str = "the row") -> Example:
    """The texts of a row.

    Args:
      task: whose templates are filled.
      row: column to text, list of words, number, or None for a value that is not there. The
        answers of a span may also be SQuAD's `{"text": [...], "answer_start": [...]}`; an empty
        list is a question without an answer.
      place: where the row stands, e.g. "train.tsv line 17"; begins every error.

    Raises:
      InputError: a column is missing, a text is empty, the target is not a label word, there are
        not as many tags as words, or a span is not in the input.
    """
    example = kind_of(task.kind).example(task, row, place)
    if not task.group:
        return example
    return example._replace(group=str(fill(task.group, row, place, "group")))


class Examples(Series[Example]):
    """Many examples, whose templates are filled whenever they are asked for.

    Attributes:
      labels: which of the task's label words each target is; empty of other tasks.
    """

    def __init__(self, series: Series[Example], labels: Int[np.ndarray, " N"]):
        super().__init__(series._read, series._rows, series._source)
        self.labels = labels

    def take(self, rows: Int[np.ndarray, " N"]) -> "Examples":
        """The examples of these places."""
        labels = self.labels[rows] if len(self.labels) else self.labels
        return Examples(super().take(rows), labels)

    def changed(self, change: Callable[[Example], Example], name: str) -> "Examples":
        """The examples with other sources; arguments as for `mapped`."""
        return Examples(self.mapped(change, name), self.labels)


def filled(task: Task, rows: Series[tuple[str, Record]], labels: Int[np.ndarray, " N"]) -> Examples:
    """The texts of rows that are known to fit, and which label word each target is."""

    def fill(row: tuple[str, Record]) -> Example:
        return to_example(task, row[1], row[0])

    return Examples(rows.mapped(fill, repr(task)), labels)


def label_numbers(examples: Sequence[Example], task: Task) -> Int[np.ndarray, " N"]:
    """Which label word of a classification each target is; -1 for none."""
    if isinstance(examples, Examples):
        return examples.labels
    number = {word: i for i, word in enumerate(task.choices)}
    return np.array([number.get(example.target, -1) for example in examples], int)


def to_examples(task: Task, rows: Iterable[tuple[str, Record]]) -> Sequence[Example]:
    """The texts of rows, of each where it stands and its values.

    Of a long series of rows no texts are kept: `Examples`.

    Raises:
      InputError: as `to_example`; how many rows do not fit, and the first of them.
    """
    series = rows if isinstance(rows, Series) and len(rows) > HELD else None
    number = {word: i for i, word in enumerate(task.choices)}
    examples: list[Example] = []
    labels: list[int] = []
    problems: list[InputError] = []
    count = 0
    for place, row in rows:
        count += 1
        try:
            example = to_example(task, row, place)
        except InputError as error:
            problems.append(error)
            continue
        if series is None:
            examples.append(example)
        elif number:
            labels.append(number[example.target])
    if len(problems) > 1:
        # The first says it all; of the next two, what was got and where.
        others = "; ".join(str(error).partition(";")[0] for error in problems[1:SHOWN])
        raise InputError(
            f"{problems[0]}\n{len(problems):,} of {count:,} rows do not fit, as {others}"
        ) from problems[0]
    if problems:
        raise problems[0]
    return examples if series is None else filled(task, series, np.array(labels, np.int16))


def labelled(
    name: str, config: TaskConfig, rows: Sequence[tuple[str, Record]]
) -> Sequence[tuple[str, Record]]:
    """The rows that have a target; errors as for `resolve`."""
    target = _templates(name, config, list(rows[0][1]))[1] if rows else ""
    columns = columns_in(target)
    # A text of several labels may have none of them.
    is_absent = is_missing if config.kind == "multi_label" else is_empty
    there = [
        not all(is_absent(reach(row, column, place)) for column in columns) for place, row in rows
    ]
    return taken(rows, np.flatnonzero(there))


def to_source(task: Task, row: Record, place: str = "the row") -> Text:
    """The input text of a row that may have no target.

    Raises:
      InputError: a column is missing or the text is empty.
    """
    return kind_of(task.kind).source(task, row, place)


def chat_of(
    task: Task,
    tokenizer: Tokenizer | None,
    backbone_place: str,
    *,
    auto: bool = False,
    placement: str = "prefix",
) -> Task:
    """The task as a backbone is asked it: a chat or plain text.

    Args:
      backbone_place: `Backbone.target_place`.
      auto: makes a chat of it where the backbone is a decoder and its tokenizer has a template.
      placement: where a soft prompt stands; in a system turn, there is always one.

    Raises:
      InputError: a chat, and the tokenizer has no template, the backbone only reads, or answers
        are parts of the text; or plain text, and a placement inside a chat.
    """
    task = dataclasses.replace(task, system_turn=placement == "system")
    template = template_hash(tokenizer)
    inside = KINDS[task.kind].marks_text
    if not task.chat:
        if auto and bool(template) and backbone_place == "behind" and not inside:
            return dataclasses.replace(task, chat=True, template=template)
        if placement in IN_CHATS:
            others = ", ".join(name for name in PLACEMENTS if name not in IN_CHATS)
            raise InputError(
                f'placement="{placement}" is in a turn of a chat, and task {task.name!r} is plain '
                f"text here; use {others}, or an instruct model that writes, with task.chat on"
            )
        return task
    if inside or backbone_place == "within":
        reason = f"a {task.kind} marks the text" if inside else "the backbone writes no answers"
        raise InputError(
            f"task {task.name!r} is no chat, since {reason}; set task.chat off, and give rows of "
            "plain text"
        )
    if not template:
        raise no_template(f"task {task.name!r}")
    return dataclasses.replace(task, template=template)


def taught(task: Task, examples: Sequence[Example]) -> Sequence[Example]:
    """What is trained on of examples: all that they teach, and none that teaches nothing."""
    return kind_of(task.kind).taught(task, examples)


def completed(task: Task, examples: Sequence[Example]) -> Task:
    """The task with what only its training examples tell: the tags, or that an answer may miss."""
    return kind_of(task.kind).complete(task, examples)
