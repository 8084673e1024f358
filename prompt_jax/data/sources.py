"""Where rows come from: the embedded tasks, TFDS, the hub of Hugging Face, or files."""

from collections.abc import Sequence
from types import ModuleType

from prompt_jax.data import hub, records, shards
from prompt_jax.data.tables import Table
from prompt_jax.tasks import Example, Record, Task, parse_name, to_examples

SOURCES: dict[str, ModuleType] = {
    "embedded": records,
    "tfds": records,
    "hf": hub,
    "file": shards,
}
"""By prefix, a file with `parts(name)`, the splits of a dataset, and `read(name, split, limit)`."""


def load_rows(name: str, split: str, limit: int | None = None) -> list[Record]:
    """The rows of a split as plain Python values.

    Class labels come as their names; None is a label that is not there.

    Args:
      name: a task name, see `prompt_jax.tasks.parse_name`. A split in the name goes before `split`.
      split: a split of the dataset, e.g. "train" or "train[:100]"; a file has one and ignores it.
      limit: only so many rows, from the front.

    Raises:
      InputError: no such task, split or file, or one that cannot be read here.
    """
    return [row.values for row in load_table(name, split, limit)]


def load_examples(task: Task, name: str, split: str, limit: int | None = None) -> Sequence[Example]:
    """The examples of a split; arguments as for `load_rows`.

    Raises:
      InputError: as `load_rows`, or a row that does not fit the task, by its line.
    """
    return to_examples(task, load_table(name, split, limit))


def splits(name: str) -> list[str]:
    """The splits a name can be read at: one when the name says it, `["train"]` for a file.

    Raises:
      InputError: no such task, or one that cannot be read here.
    """
    parsed = parse_name(name)
    return [parsed.split] if parsed.split else SOURCES[parsed.prefix].parts(parsed)


def load_table(name: str, split: str, limit: int | None = None) -> Table:
    """The rows of a split with the places where they stand; all else as for `load_rows`."""
    parsed = parse_name(name)
    return SOURCES[parsed.prefix].read(parsed, parsed.split or split, limit)
