"""Label words: as a config lists them, as rows write them, and as the targets of a file show them.

A config lists `negative`, or `0=negative` where rows write 0. A `=` at the front begins a label
word that has one in it: `=a=b` is `a=b`.
"""

import difflib
import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from prompt_jax.config import InputError, TaskConfig
from prompt_jax.tasks.task import Task

Values = tuple[tuple[str, str], ...]
"""What rows write for a label word, and that word."""

MOST = 32
"""A file of more distinct targets is written freely, unless its kind or its labels are given."""
LONGEST = 40
"""Characters of a target that may be a label word."""
REPEATS = 3
"""How often the label words of a file occur at least, on average."""
_CHOSEN = ("accuracy", "macro_f1", "matthews")
_BOOLS = {"true": "1", "false": "0", "1": "true", "0": "false"}


def read_labels(labels: Sequence[str]) -> tuple[tuple[str, ...], Values]:
    """The label words of `task.labels`, and what rows write for them.

    Raises:
      InputError: an empty word, a word twice, or a value of two words.
    """
    pairs = [("", label) if "=" not in label else label.split("=", 1) for label in labels]
    pairs = [(value.strip(), word.strip()) for value, word in pairs]
    words: dict[str, str] = {}
    for value, word in pairs:
        if not word:
            raise InputError(f"task.labels has an empty label word; write {value or '0'}=WORD")
        if words.setdefault(_key(word), word) != word or pairs.count(("", word)) > 1:
            raise InputError(f"task.labels names {word!r} twice; name each label word once")
    values = {}
    for value, word in pairs:
        if value and values.setdefault(_key(value), (value, word)) != (value, word):
            raise InputError(
                f"task.labels gives {value!r} to {values[_key(value)][1]!r} and to {word!r}; give "
                "each value to one label word"
            )
    return tuple(words.values()), tuple(values.values())


def write_labels(task: Task) -> tuple[str, ...]:
    """The `task.labels` of a task: the reverse of `read_labels`."""
    written = []
    for word in task.labels:
        values = [value for value, label in task.values if label == word]
        plain = f"={word}" if "=" in word else word
        written += [f"{value}={word}" for value in values] or [plain]
    return tuple(written)


def label_of(task: Task, target: str) -> str | None:
    """The label word or tag that a row's target is; None where it is none.

    An accent may be a letter of its own, 1.0 is 1, and true and false are 1 and 0.
    """
    names = _names(task.labels, task.values)
    if target in names:
        return names[target]
    key = _key(target)
    return names.get(key) or names.get(_BOOLS.get(key, ""))


def label_word(task: Task, target: str, place: str, description: str = "a label word") -> str:
    """The label word or tag that a row's target is.

    Args:
      place: where the row stands; begins the error.
      description: what a target has to be.

    Raises:
      InputError: it is none.
    """
    label = label_of(task, target)
    if label is not None:
        return label
    near = difflib.get_close_matches(target, task.labels, n=1)
    hint = f" Perhaps you meant {near[0]!r}?" if near else ""
    raise InputError(
        f"{place}: target {target!r} is not {description}; allowed: "
        f"{', '.join(write_labels(task))}.{hint} Correct the row, --task.target or --task.labels "
        "(0=WORD there says which label word a 0 is)"
    )


# Every row of a file asks, and always for the same labels.
@functools.lru_cache(maxsize=64)
def _names(labels: tuple[str, ...], values: Values) -> dict[str, str]:
    words = [(word, word) for word in labels]
    names = {_key(name): word for name, word in (*words, *values)}
    return names | dict(words) | dict(values)


def _key(text: str) -> str:
    """What spellings of one label have in common."""
    text = unicodedata.normalize("NFC", text)
    if re.fullmatch(r"[-+]?\d+\.0+", text):
        return text.partition(".")[0]
    return text.lower() if text.lower() in _BOOLS else text


def in_order(labels: tuple[str, ...], targets: Iterable[str]) -> Values:
    """The numbers of label words, where all targets are numbers from 0 on, as `ClassLabel` counts.

    Empty where a target is something else, or a label word.
    """
    task = Task(name="", source="", target="", labels=labels)
    keys = set(map(_key, targets))
    numbers = [str(number) for number in range(len(labels))]
    if not keys or not keys <= set(numbers) or any(label_of(task, key) for key in keys):
        return ()
    return tuple(zip(numbers, labels, strict=True))


def infer(targets: Mapping[str, int], config: TaskConfig) -> tuple[str, ...]:
    """The label words of a file's targets; empty where these are texts to write freely.

    Label words are few, short, and repeat. A config that says `classification` takes any.

    Args:
      targets: and how many rows have each.
      config: what the user says of the task.

    Raises:
      InputError: a classification with one target.
    """
    # The first spelling of each, but 1 for 1.0: a column of numbers with an empty cell has points.
    keys = {_key(target): target for target in reversed([*targets])}
    words = {key: key if _is_number(key) else target for key, target in keys.items()}
    labels = tuple(sorted(words.values(), key=_rank))
    if config.kind in ("classification", "multi_label"):
        if len(labels) == 1:
            raise InputError(
                f"a {config.kind.replace('_', ' ')} has two label words at least, and every target "
                f"is {labels[0]!r}; name others in task.labels, or give rows of other targets"
            )
        return labels
    few = 2 <= len(labels) <= MOST and len(labels) * REPEATS <= sum(targets.values())
    short = all(len(word) <= LONGEST and not re.search(r"\d\.\d|\n", word) for word in labels)
    return labels if few and short and set(config.metrics) <= set(_CHOSEN) else ()


def _rank(word: str) -> tuple[bool, int, str]:
    """Numbers stand in their order, and before words."""
    return (False, int(word), "") if _is_number(word) else (True, 0, word)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+", text) is not None


def remarks(task: Task, config: TaskConfig) -> list[str]:
    """What a run prints about labels that the config does not name."""
    lines = []
    if task.ranked and not config.labels and not task.like:
        names = ", ".join(task.labels[:MOST]) + (", ..." if len(task.labels) > MOST else "")
        lines.append(
            f"{len(task.labels)} labels: {names} (the targets of the training rows; --task.labels "
            "to name them, --task.kind generation to write freely)"
        )
    if task.values and task.values != read_labels(config.labels)[1]:
        values = " ".join(f"{value}={word}" for value, word in task.values)
        lines.append(f"numbers are labels in their order; to change it: --task.labels {values}")
    return lines
