"""The examples of an experiment: which splits a dataset has, and which play which part."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError, from_json, to_json
from prompt_jax.data import Arrays, Cache, balanced, hold_out, load_table, sample, shots, splits
from prompt_jax.processes import code_digest
from prompt_jax.tasks import (
    HELD,
    Example,
    Examples,
    Record,
    Series,
    Task,
    as_chat,
    chat_of,
    completed,
    digest_of,
    filled,
    label_numbers,
    labelled,
    resolve,
    taught,
    to_examples,
    uncollected,
    validation_split,
)


class Data(NamedTuple):
    """The examples of an experiment."""

    task: Task
    train: Sequence[Example]
    validation: Sequence[Example]
    tests: dict[str, Sequence[Example]]
    """Test set name -> examples; empty when the dataset has no labelled test split."""
    held_out: bool = False
    """Whether the validation examples were taken out of the training rows."""
    remarks: tuple[str, ...] = ()
    """What a run prints about how the rows were read."""

    def watched(self, config: Config) -> Sequence[Example]:
        """The validation examples that are scored while training."""
        return sample(self.validation, config.train.eval_examples, self.task, config.data.seed)


def for_backbone(data: Data, config: Config, backbone: Backbone) -> Data:
    """The data as the backbone is asked it: as chats where `task.chat` says so.

    Raises:
      InputError: as `chat_of`.
    """
    way = {"auto": config.task.chat == "auto", "placement": config.method.place}
    task = chat_of(data.task, backbone.tokenizer, backbone.target_place, **way)
    if not task.chat:
        return data._replace(task=task)

    def chat(example: Example) -> Example:
        return example._replace(source=as_chat(task, example.source))

    def chats(examples: Sequence[Example]) -> Sequence[Example]:
        many = isinstance(examples, Examples)
        return examples.changed(chat, repr(task)) if many else list(map(chat, examples))

    tests = {name: chats(examples) for name, examples in data.tests.items()}
    return data._replace(
        task=task, train=chats(data.train), validation=chats(data.validation), tests=tests
    )


def load_mixture(config: Config) -> list[Data]:
    """The examples of every task of an experiment, that of `data.task` first."""
    return [load_data(config, name) for name in (config.data.task, *config.data.mixture)]


def check_one(config: Config, command: str) -> None:
    """Checks that a config names one task."""
    for field in ("mixture", "tasks"):
        names = getattr(config.data, field)
        if names:
            raise InputError(
                f"{command} is for one task, and data.{field} names {', '.join(names)}; leave it "
                "out and give each task as data.task"
            )


def load_data(config: Config, name: str = "") -> Data:
    """Reads and checks every example of one task of an experiment.

    Args:
      name: of the task; empty takes `config.data.task`.
    """
    name, options = name or config.data.task, config.data
    parts = splits(name)
    rows, remarks = read_rows(config, name, parts[0] if len(parts) == 1 else "train")
    cache = Cache(options.cache)
    task, train = _surveyed(config, name, rows, cache)
    tests = {
        split: sample(examples, options.max_test_examples, task, options.seed)
        for split, examples in _tests(config, task, name, parts).items()
    }
    validation: Sequence[Example] = []
    if options.validation:
        validation = examples_of(config, task, options.validation, "validation")
    elif split := validation_split(name, parts):
        validation = to_examples(task, read_rows(config, name, split)[0])
    held_out = not validation
    if options.shots is not None:
        train, spared = shots(train, options.shots, task, options.seed, name, spare=held_out)
        validation = validation or spared
    elif held_out:
        drawn = (options.validation_fraction, task, options.seed, name)
        train, validation = hold_out(train, *drawn)
    train = sample(train, options.max_examples, task, options.seed)
    _check_labels(train, task, name)
    if options.balanced:
        train = balanced(train, task, options.seed)
    remarks = (*remarks, *cache.lines)
    return Data(task, taught(task, train), validation, tests, held_out, remarks)


def _surveyed(
    config: Config, name: str, rows: Sequence[tuple[str, Record]], cache: Cache
) -> tuple[Task, Sequence[Example]]:
    """The task and its training examples; of many rows, what it takes to go over all is cached."""

    def survey() -> tuple[Task, Sequence[Example]]:
        task = resolve(name, config.task, rows[0][1], rows)
        examples = to_examples(task, rows)
        return completed(task, examples), examples

    if not isinstance(rows, Series) or len(rows) <= HELD:
        return survey()

    def arrays() -> Arrays:
        with uncollected():
            task, examples = survey()
        written = json.dumps(to_json(task)).encode()
        return {"task": np.frombuffer(written, np.uint8), "labels": label_numbers(examples, task)}

    facts = f"{name} {config.task} {code_digest()}"
    digest = digest_of(rows.digest, facts) if rows.digest else ""
    kept = cache.arrays(f"labels of {len(rows):,} rows", digest, arrays)
    task = from_json(Task, json.loads(kept["task"].tobytes()))
    return task, filled(task, rows, kept["labels"])


def read_rows(
    config: Config, name: str, split: str
) -> tuple[Sequence[tuple[str, Record]], tuple[str, ...]]:
    """The rows of a split that are trained on or scored, and what to say of how they were read."""
    options = config.data
    table = load_table(name, split, options.first_rows)
    if not options.skip_unlabelled:
        return table, table.remarks
    rows = labelled(name, config.task, table)
    if not rows:
        raise InputError(
            f"{name}: none of the {len(table):,} rows has a target; correct --task.target, or give "
            "a split with labels"
        )
    left_out = len(table) - len(rows)
    remark = f"{left_out:,} of {len(table):,} rows ({split}) have no target and are left out"
    return rows, (*table.remarks, *([remark] if left_out else []))


def _check_labels(train: Sequence[Example], task: Task, name: str) -> None:
    """Checks that training rows have two labels at least, where there are labels."""
    if task.choices and len(labels := np.unique(label_numbers(train, task))) == 1 < len(train):
        raise InputError(
            f"{name}: all {len(train):,} training rows have the label {task.choices[labels[0]]!r}, "
            "which teaches nothing; give rows of other labels, or more rows of a file that is "
            "sorted (data.first_rows)"
        )


def _tests(config: Config, task: Task, name: str, parts: list[str]) -> dict[str, Sequence[Example]]:
    if config.data.test:
        return {"test": examples_of(config, task, config.data.test, "test")}
    tests = {}
    for split in sorted((s for s in parts if s.startswith("test")), key=lambda s: (s != "test", s)):
        # GLUE's test labels are secret: such a split is no mistake of the user's.
        with contextlib.suppress(InputError):
            tests[split] = to_examples(task, read_rows(config, name, split)[0])
    return tests


def examples_of(config: Config, task: Task, name: str, split: str) -> Sequence[Example]:
    """The examples of a dataset: of a split when it has that one, else of the only one."""
    parts = splits(name)
    return to_examples(task, read_rows(config, name, split if split in parts else parts[0])[0])


def digest(examples: Sequence[Example]) -> str:
    """A digest of all that examples say, by which the same rows are known again."""
    total = hashlib.sha256(b"[")
    for i, example in enumerate(examples):
        total.update(f"{', ' * (i > 0)}{example!r}".encode())
    total.update(b"]")
    return total.hexdigest()[:16]
