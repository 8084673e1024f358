"""Rows of a dataset as pairs of texts."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from prompt_jax.config import InputError, TaskConfig
from prompt_jax.tasks.labels import in_order, infer, label_of, read_labels, write_labels
from prompt_jax.tasks.table import TASKS, parse_name
from prompt_jax.tasks.task import NO_ANSWER, Task
from prompt_jax.tasks.templates import check_column, fill, listing, parse, reach
from prompt_jax.tasks.text import Record, Text, words_of


class Example(NamedTuple):
    """One pair of texts."""

    source: str
    target: str
    """What a model shall answer: a text, a label word, the tags of all words of the source, or
    nothing to a question without an answer."""
    others: tuple[str, ...] = ()
    """Further right answers, of which an evaluation takes the nearest."""
    start: int | None = None
    """Of a span: where in the source the target begins, in characters."""

    @property
    def references(self) -> tuple[str, ...]:
        """Every right answer."""
        return (self.target, *self.others)


def resolve(
    name: str,
    config: TaskConfig,
    columns: Iterable[str],
    rows: Sequence[tuple[str, Record]] = (),
) -> Task:
    """The task of a name, with the user's fields over the known ones.

    A dataset nobody described needs no template when its columns are `input` and `target`, and no
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
    columns = list(columns)
    key = parse_name(name).key
    described = TASKS.get(key)
    if not described and {"input", "target"} <= set(columns):
        described = Task(name=key, source="{input}", target="{target}")
    source = config.source or (described and described.source)
    target = config.target or (described and described.target)
    if not source or not target:
        raise InputError(
            f"{name} has the columns {', '.join(columns)} and no known templates; give "
            '--task.source "... {column} ..." and --task.target "{column}"'
        )
    _check_templates(source, target, columns, name)
    # Its labels and metrics are of its own kind, and its metrics of its own labels.
    same = described if described and config.kind in (None, described.kind) else None
    # A text, until there are label words.
    declared = described.kind if described and described.kind != "generation" else ""
    kind = config.kind or declared
    labels, values = read_labels(config.labels)
    labels = labels or (same.labels if same else ())
    if kind in ("classification", "tagging") or (not kind and key not in TASKS):
        targets = _targets(target, kind, rows)
        if not labels and kind != "tagging":
            labels = infer(targets, config)
        values = values or in_order(labels, targets)
    measured = same.metrics if same and same.labels == labels else ()
    return Task(
        name=key,
        source=source,
        target=target,
        kind=kind,
        labels=labels,
        values=values,
        metrics=config.metrics or measured,
    )


def _targets(template: str, kind: str, rows: Sequence[tuple[str, Record]]) -> list[str]:
    """The targets of all rows, or their tags."""
    targets = [str(fill(template, row, place, "target")) for place, row in rows]
    return [tag for text in targets for tag in text.split()] if kind == "tagging" else targets


def _check_templates(source: str, target: str, columns: list[str], name: str) -> None:
    for template in (source, target):
        names = [column for _, column, _ in parse(template) if column is not None]
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
    if task.kind == "span":
        return _span(task, row, place)
    source = to_source(task, row, place)
    target = fill(task.target, row, place, "target")
    if task.kind == "tagging":
        target = _tags(task, source, target, place)
    elif task.labels:
        target = _label(task, target, place, "a label word")
    return Example(source, target)


def to_examples(task: Task, rows: Iterable[tuple[str, Record]]) -> list[Example]:
    """The texts of rows, of each where it stands and its values; errors as for `to_example`."""
    return [to_example(task, row, place) for place, row in rows]


def to_source(task: Task, row: Record, place: str = "the row") -> Text:
    """The input text of a row that may have no target.

    Raises:
      InputError: a column is missing or the text is empty.
    """
    return fill(task.source, row, place, "source")


def with_tags(task: Task, examples: Sequence[Example]) -> Task:
    """A tagging task with the tags that its examples have, "O" first, unless it names them."""
    if task.kind != "tagging" or task.labels:
        return task
    tags = {tag for example in examples for tag in example.target.split()}
    # The default metrics depend on the tags; others stay what they are.
    plain = dataclasses.replace(task, metrics=())
    metrics = () if plain.metrics == task.metrics else task.metrics
    labels = tuple(sorted(tags, key=lambda tag: (tag != "O", tag)))
    return dataclasses.replace(task, labels=labels, metrics=metrics)


def with_no_answer(task: Task, examples: Sequence[Example]) -> Task:
    """A span task that may say nothing, if some of its examples have no answer."""
    silent = task.kind == "span" and not all(example.target for example in examples)
    return dataclasses.replace(task, labels=NO_ANSWER) if silent else task


def _label(task: Task, target: str, place: str, role: str) -> str:
    label = label_of(task, target)
    if label is not None:
        return label
    near = difflib.get_close_matches(target, task.labels, n=1)
    hint = f" Perhaps you meant {near[0]!r}?" if near else ""
    raise InputError(
        f"{place}: target {target!r} is not {role}; allowed: {', '.join(write_labels(task))}."
        f"{hint} Correct the row, --task.target or --task.labels (0=WORD there says which label "
        "word a 0 is)"
    )


def _tags(task: Task, source: Text, target: str, place: str) -> str:
    words, tags = words_of(source), target.split()
    if len(words) != len(tags):
        raise InputError(
            f"{place}: {len(tags)} tags for {len(words)} words; every word has one tag without "
            "spaces. The words are those of the list, or what spaces separate in a text, of which "
            "the template has nothing else then"
        )
    if not task.labels:
        return target
    return " ".join(_label(task, tag, place, "a tag of this task") for tag in tags)


def _span(task: Task, row: Record, place: str) -> Example:
    source = fill(task.source, row, place, "source")
    context, _ = source.columns[-1]
    (_, column, _), *rest = parse(task.target)
    if rest or column is None or task.target != f"{{{column}}}":
        raise InputError(
            f"the target template of a span is its column alone, got {task.target!r}; write "
            '--task.target "{answers}"'
        )
    texts, starts = _answers(reach(row, column, place), column, place)
    if not texts:
        return Example(source, "")
    start = context + starts[0] if starts else source.find(texts[0], context)
    if start < 0 or source[start : start + len(texts[0])] != texts[0]:
        raise InputError(
            f"{place}: the answer {texts[0]!r} is not in the input where it should be; it is a "
            "part of the last column of the source template, and answer_start counts its "
            'characters: correct the row, or set task.kind to "generation"'
        )
    target, *others = dict.fromkeys(texts)
    return Example(source, target, tuple(others), start)


def _answers(value: Any, column: str, place: str) -> tuple[list[str], list[int]]:
    """The right answers of a span and where they begin, if it is told; none if there is none."""
    starts = []
    if isinstance(value, Mapping) and "text" in value:
        value, starts = value["text"], list(value.get("answer_start", ()))
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"{place}: column {column!r} holds no answers; allowed: a text, a list of texts, "
            'or {"text": [...], "answer_start": [...]} as SQuAD has it'
        )
    if not all(text.strip() for text in texts):
        raise InputError(
            f"{place}: column {column!r} holds an empty answer; a question without an answer has "
            "an empty list, as SQuAD 2.0 has it"
        )
    return texts, starts
