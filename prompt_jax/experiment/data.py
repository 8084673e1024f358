"""The examples of an experiment: which splits a dataset has, and which play which part."""

import contextlib
from typing import NamedTuple

import numpy as np

from prompt_jax.config import Config, InputError
from prompt_jax.data import load_examples, load_rows, splits
from prompt_jax.tasks import Example, Task, resolve, with_no_answer, with_tags


class Data(NamedTuple):
    """The examples of an experiment."""

    task: Task
    train: list[Example]
    validation: list[Example]
    tests: dict[str, list[Example]]
    """Test set name -> examples; empty when the dataset has no labelled test split."""


def load_mixture(config: Config) -> list[Data]:
    """The examples of every task of an experiment, that of `data.task` first.

    Raises:
      InputError: see `load_data`.
    """
    return [load_data(config, name) for name in (config.data.task, *config.data.mixture)]


def check_one(config: Config, what: str) -> None:
    """Checks that a config names one task.

    Raises:
      InputError: it has a mixture, or several.
    """
    for field in ("mixture", "tasks"):
        names = getattr(config.data, field)
        if names:
            raise InputError(
                f"{what} is for one task, and data.{field} names {', '.join(names)}; leave it out "
                "and give each task as data.task"
            )


def load_data(config: Config, name: str = "") -> Data:
    """Reads and checks every example of one task of an experiment.

    Args:
      config: its data and task parts.
      name: of the task; empty takes `config.data.task`.

    Raises:
      InputError: see `prompt_jax.data` and `prompt_jax.tasks`.
    """
    name, limit = name or config.data.task, config.data.max_examples
    found = splits(name)
    own = found[0] if len(found) == 1 else "train"
    columns = load_rows(name, own, 1)[0]
    task = resolve(name, config.task, columns)
    train = load_examples(task, name, own, limit)
    task = with_no_answer(with_tags(task, train), train)
    tests = _tests(config, task, name, found)
    if config.data.validation:
        validation = _examples(task, config.data.validation, "validation")
    elif "validation" in found:
        validation = load_examples(task, name, "validation")
    else:
        train, validation = _hold_out(train, name)
    return Data(task, train, validation, tests)


def _tests(config: Config, task: Task, name: str, found: list[str]) -> dict[str, list[Example]]:
    if config.data.test:
        return {"test": _examples(task, config.data.test, "test")}
    tests = {}
    for split in sorted((s for s in found if s.startswith("test")), key=lambda s: (s != "test", s)):
        # GLUE's test labels are secret: such a split is no mistake of the user's.
        with contextlib.suppress(InputError):
            tests[split] = load_examples(task, name, split)
    return tests


def _examples(task: Task, name: str, split: str) -> list[Example]:
    found = splits(name)
    return load_examples(task, name, split if split in found else found[0])


def _hold_out(train: list[Example], name: str) -> tuple[list[Example], list[Example]]:
    """Every tenth example, in an order of their own, for a dataset without validation."""
    if len(train) < 10:
        raise InputError(
            f"{name} has no validation split and {len(train)} rows, too few to hold "
            "10 % out; give --data.validation"
        )
    order = np.random.default_rng(0).permutation(len(train))
    held = set(order[: len(train) // 10].tolist())
    return (
        [example for i, example in enumerate(train) if i not in held],
        [train[i] for i in sorted(held)],
    )
