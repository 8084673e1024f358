"""A dataset row becomes an input text and a target text.

A task is two templates, the label words and the metrics; everything here is pure, so the same
templates serve training, prediction and a served prompt.
"""

import difflib
import re
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from prompt_jax.config import InputError, TaskConfig, choose

CLASSIFICATION_METRICS = ("accuracy", "macro_f1")
GENERATION_METRICS = ("exact_match", "token_f1", "rougeL")


class Example(NamedTuple):
    """One pair of texts."""

    source: str
    target: str


class TaskName(NamedTuple):
    """The parts of a name such as `tfds:glue/sst2@train`."""

    prefix: str
    path: str
    split: str | None

    @property
    def key(self) -> str:
        """The name under which `TASKS` knows it: no version, no split."""
        return f"{self.prefix}:{re.sub(r':[0-9.*]+$', '', self.path)}"


@dataclass(frozen=True, kw_only=True)
class Task:
    """How rows of one dataset become text, and how answers are judged."""

    name: str
    source: str
    """Template of the input; `{column}` stands for the text of a column."""
    target: str
    """Template of the target."""
    labels: tuple[str, ...] = ()
    """The label words; empty for generation."""
    metrics: tuple[str, ...] = ()
    """Names of metrics, the deciding one first; empty takes the defaults of the kind."""

    def __post_init__(self):
        defaults = CLASSIFICATION_METRICS if self.labels else GENERATION_METRICS
        object.__setattr__(self, "metrics", self.metrics or defaults)

    @property
    def kind(self) -> str:
        """`classification` when there are label words, else `generation`."""
        return "classification" if self.labels else "generation"


def _embedded(name: str, *labels: str, metrics: tuple[str, ...] = ()) -> Task:
    return Task(
        name=f"embedded:{name}",
        source="{input}",
        target="{target}",
        labels=labels,
        metrics=metrics,
    )


def _tfds(name: str, source: str, *labels: str, target: str = "{label}") -> Task:
    # A template of bare columns is written `column: {column}`, the taskless format of T5.
    columns = source.split()
    return Task(
        name=f"tfds:{name}",
        source=" ".join(f"{c.partition(':')[0]}: {{{c}}}" for c in columns),
        target=target,
        labels=labels,
        metrics=() if labels else ("exact_match",),
    )


_NLI = ("entailment", "not_entailment")
_MNLI = ("entailment", "neutral", "contradiction")
_BOOL = ("False", "True")

# Columns in T5's order: sorted by name, but for multirc and wic. Left out are record and wsc,
# whose rows need more than a template.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _embedded("sentiment", "negative", "positive"),
        _embedded(
            "gloss_category",
            *("act", "animal", "artifact", "body", "communication"),
            *("food", "location", "person", "plant", "substance"),
        ),
        _embedded("headline_satire", "news", "satire"),
        _embedded(
            "factbook_topic",
            *("economy", "environment", "geography", "government", "military", "society"),
        ),
        _embedded("kjv_to_modern", metrics=("chrf", "bleu")),
        _tfds("glue/cola", "sentence", "unacceptable", "acceptable"),
        _tfds("glue/sst2", "sentence", "negative", "positive"),
        _tfds("glue/mrpc", "sentence1 sentence2", "not_equivalent", "equivalent"),
        _tfds("glue/qqp", "question1 question2", "not_duplicate", "duplicate"),
        _tfds("glue/stsb", "sentence1 sentence2", target="{label:fifths}"),
        _tfds("glue/mnli", "hypothesis premise", *_MNLI),
        _tfds("glue/mnli_matched", "hypothesis premise", *_MNLI),
        _tfds("glue/mnli_mismatched", "hypothesis premise", *_MNLI),
        _tfds("glue/qnli", "question sentence", *_NLI),
        _tfds("glue/rte", "sentence1 sentence2", *_NLI),
        _tfds("glue/wnli", "sentence1 sentence2", "not_entailment", "entailment"),
        _tfds("glue/ax", "hypothesis premise", *_MNLI),
        _tfds("super_glue/boolq", "passage question", *_BOOL),
        _tfds("super_glue/cb", "hypothesis premise", "entailment", "contradiction", "neutral"),
        _tfds("super_glue/copa", "choice1 choice2 premise question", "choice1", "choice2"),
        _tfds("super_glue/multirc", "question:plain answer:plain paragraph:plain", *_BOOL),
        _tfds("super_glue/rte", "hypothesis premise", *_NLI),
        _tfds("super_glue/wic", "sentence1 sentence2 word", *_BOOL),
        _tfds("super_glue/axb", "sentence1 sentence2", *_NLI),
        _tfds("super_glue/axg", "hypothesis premise", *_NLI),
    )
}
EMBEDDED = tuple(name for name in TASKS if name.startswith("embedded:"))


def _plain(text: str) -> str:
    return re.sub(r"</?b>", "", text.replace("<br>", " "))


# Format specs beside Python's own: `{paragraph:plain}` drops the markup of MultiRC, and
# `{label:fifths}` rounds a score to the nearest 0.2, which makes STS-B's targets words.
_SPECS: dict[str, Callable[[Any], str]] = {
    "plain": _plain,
    "fifths": lambda score: f"{round(float(score) * 5) / 5:.1f}",
}


def parse_name(name: str) -> TaskName:
    """The parts of a task name.

    Args:
      name: `embedded:NAME[/SPLIT]`, `tfds:NAME[/config][:version][@SPLIT]` or `file:PATH`.

    Raises:
      InputError: no such prefix, or no such embedded task.
    """
    prefix, colon, path = name.partition(":")
    if not colon:
        choose("task", name, [*EMBEDDED, "tfds:NAME", "file:PATH"])
    choose("task prefix", prefix, ("embedded", "tfds", "file"))
    if prefix == "file":
        return TaskName(prefix, path, None)
    path, _, split = path.partition("/" if prefix == "embedded" else "@")
    if prefix == "embedded":
        choose("task", f"embedded:{path}", EMBEDDED)
    return TaskName(prefix, path, split or None)


def resolve(name: str, config: TaskConfig, columns: Iterable[str]) -> Task:
    """The task of a name, with the user's fields over the known ones.

    A dataset nobody described needs no template when its columns are `input` and `target`.

    Args:
      name: as for `parse_name`.
      config: the user's templates, label words and metrics; empty fields take the known ones.
      columns: the columns of the dataset.

    Raises:
      InputError: no template is known or given, or a template names a column that is not there.
    """
    columns = list(columns)
    key = parse_name(name).key
    known = TASKS.get(key)
    if not known and {"input", "target"} <= set(columns):
        known = Task(name=key, source="{input}", target="{target}")
    source = config.source or (known and known.source)
    target = config.target or (known and known.target)
    if not source or not target:
        raise InputError(
            f"{name} has the columns {', '.join(columns)} and no known templates; give "
            '--task.source "... {column} ..." and --task.target "{column}"'
        )
    task = Task(
        name=key,
        source=source,
        target=target,
        labels=config.labels or (known.labels if known else ()),
        metrics=config.metrics or (known.metrics if known and not config.labels else ()),
    )
    for template in (task.source, task.target):
        names = [column for _, column, _ in _parse(template) if column is not None]
        if not names:
            raise InputError(f"template {template!r} names no column; allowed: {_listing(columns)}")
        for column in names:
            _check_column(column, columns, name)
    return task


def to_example(task: Task, row: Mapping[str, Any], place: str = "the row") -> Example:
    """The texts of a row.

    Args:
      task: whose templates are filled.
      row: column to text, number, or None for a value that is not there.
      place: where the row stands, e.g. "train.tsv line 17"; begins every error.

    Raises:
      InputError: a column is missing, a text is empty, or the target is not a label word.
    """
    source = to_source(task, row, place)
    target = _fill(task.target, row, place, "target")
    if task.labels and target not in task.labels:
        near = difflib.get_close_matches(target, task.labels, n=1)
        hint = f" Perhaps you meant {near[0]!r}?" if near else ""
        raise InputError(
            f"{place}: target {target!r} is not a label word; allowed: {', '.join(task.labels)}."
            f"{hint} Correct the row, --task.target or --task.labels"
        )
    return Example(source, target)


def to_source(task: Task, row: Mapping[str, Any], place: str = "the row") -> str:
    """The input text of a row that may have no target.

    Raises:
      InputError: a column is missing or the text is empty.
    """
    return _fill(task.source, row, place, "source")


def _parse(template: str) -> list[tuple[str, str | None, str]]:
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"template {template!r}: {error}; a column is written {{column}}, a brace {{{{"
        ) from error
    return [(literal, column, spec or "") for literal, column, spec, _ in pieces]


def _fill(template: str, row: Mapping[str, Any], place: str, kind: str) -> str:
    text, values = "", ""
    for literal, column, spec in _parse(template):
        text += literal
        if column is not None:
            _check_column(column, row, place)
            value = _text(row[column], column, spec, place)
            text += value
            values += value
    # The words around the columns are no input: "sentence: " of an empty sentence is empty.
    if not values.strip():
        raise InputError(
            f"{place}: empty {kind} (template {template!r}); fill the columns or remove the row"
        )
    return text.strip()


def _text(value: Any, column: str, spec: str, place: str) -> str:
    if value is None:
        raise InputError(
            f"{place}: column {column!r} has no value, as in a split without labels; "
            "take a split that has them, or remove the row"
        )
    if not isinstance(value, str | int | float):
        raise InputError(
            f"{place}: column {column!r} holds a {type(value).__name__}; a template takes text "
            "and numbers, so write the data to a file with one text a column"
        )
    try:
        return _SPECS[spec](value) if spec in _SPECS else format(value, spec)
    except ValueError as error:
        raise InputError(
            f"{place}: {{{column}:{spec}}} cannot be applied to {value!r}: {error}; allowed: "
            f"Python's format specs, {_listing(_SPECS)}"
        ) from error


def _check_column(column: str, columns: Iterable[str], place: str) -> None:
    columns = list(columns)
    if column not in columns:
        near = difflib.get_close_matches(column, columns, n=1)
        hint = f" Perhaps you meant {near[0]!r}?" if near else ""
        raise InputError(f"{place}: no column {column!r}; there are: {_listing(columns)}.{hint}")


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names)
