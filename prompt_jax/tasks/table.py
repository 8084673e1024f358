"""The tasks that need no description, and how tasks are named."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from prompt_jax.config import InputError, choose
from prompt_jax.tasks.benchmarks import ROWS


class TaskName(NamedTuple):
    """The parts of a name such as `tfds:glue/sst2@train`."""

    prefix: str
    path: str
    split: str | None

    @property
    def dataset(self) -> str:
        """The name without its split."""
        return f"{self.prefix}:{self.path}"

    @property
    def key(self) -> str:
        """The name under which `TASKS` knows it: no version or revision, no split."""
        version = r"@.*$" if self.prefix == "hf" else r":[0-9.*]+$"
        return f"{self.prefix}:{re.sub(version, '', self.path)}"


TASKS = {name: replace(row.task, name=name, like=name) for row in ROWS for name in row.names}
"""Every task that needs no description, by each name that its rows are read by."""
SPLIT_MARKS = {"embedded": "/", "tfds": "@", "hf": ":", "file": ""}
"""By prefix, what a split stands behind in a name."""
FILES = r"\.(tsv|csv|jsonl?|parquet|arrow|txt)(\.(gz|bz2|zst))?$"
"""How the name of a file of rows ends."""
EMBEDDED = tuple(name for name in TASKS if name.startswith("embedded:"))


def parse_name(name: str) -> TaskName:
    """The parts of a task name.

    Args:
      name: `embedded:NAME[/SPLIT]`, `tfds:NAME[/CONFIG][:VERSION][@SPLIT]`,
        `hf:ID[/CONFIG][@REVISION][:SPLIT]` or `file:PATH`. `huggingface:`, `hub:` and
        `tfds:huggingface:` are `hf:`.

    Raises:
      InputError: no such prefix, or no such embedded task.
    """
    prefix, colon, path = name.partition(":")
    if not colon:
        _suggest_prefix(name)
        choose("task", name, [*EMBEDDED, "tfds:NAME", "hf:ID", "file:PATH"])
    if name.startswith("tfds:huggingface:"):
        # TFDS writes two underscores for the slash behind an owner.
        prefix, path = "hf", path.partition(":")[2].replace("__", "/", 1)
    prefix = {"huggingface": "hf", "hub": "hf"}.get(prefix, prefix)
    choose("task prefix", prefix, SPLIT_MARKS)
    if prefix == "file":
        return TaskName(prefix, path, None)
    path, _, split = path.partition(SPLIT_MARKS[prefix])
    if prefix == "embedded":
        choose("task", f"embedded:{path}", EMBEDDED)
    return TaskName(prefix, path, split or None)


def _suggest_prefix(name: str) -> None:
    if f"tfds:{name}" in TASKS:
        raise InputError(f"task {name!r} lacks its source; write tfds:{name}")
    if re.fullmatch(r"[\d.]+%?", name):
        raise InputError(
            f"{name} is no task; for a share of the training rows to validate on, write "
            "--data.validation-fraction 0.2"
        )
    if re.search(FILES, name):
        raise InputError(f"task {name!r} lacks its source; for a file write file:{name}")


def validation_split(name: str, parts: Sequence[str]) -> str | None:
    """The split to validate a task on, of those that its dataset has; None where there is none."""
    key = parse_name(name).key
    usual = {row.validation for row in ROWS if key in row.names} | {"validation"}
    return next(iter(sorted(usual & set(parts))), None)
