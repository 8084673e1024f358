"""Which rows are taken out of many: drawn by a seed, every label in its share."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from prompt_jax.config import InputError
from prompt_jax.tasks import Example, Task, label_numbers, taken


def sample(
    examples: Sequence[Example], count: int | None, task: Task, seed: int
) -> Sequence[Example]:
    """So many examples in the order they had; all of them when there are not that many.

    Of a classification every label keeps its share, and one row at least where `count` allows:
    files are often sorted by label, so that their first rows have one label only.
    """
    if count is None or len(examples) <= count:
        return examples
    rows = _strata(examples, task)
    sizes = np.array([len(group) for group in rows])
    return taken(examples, _drawn(rows, _shares(sizes, sizes, count), seed))


def shots(
    examples: Sequence[Example], count: int, task: Task, seed: int, name: str, *, spare: bool
) -> tuple[Sequence[Example], Sequence[Example]]:
    """So many examples of every label, and as many others if `spare`; in the order they had.

    Args:
      name: of the dataset, for errors.
      spare: also draws examples to validate on.

    Raises:
      InputError: a task without label words, or a label with too few rows.
    """
    if not task.choices:
        raise InputError(
            f"data.shots draws rows of every label, and {name} is a {task.kind} without label "
            "words; use data.max_examples"
        )
    rows = _strata(examples, task)
    absent = sorted(set(task.choices) - {examples[group.item(0)].target for group in rows})
    if absent:
        raise InputError(
            f"data.shots {count} of every label, and {name} has no row of {absent[0]!r}; leave it "
            "out of --task.labels, or give rows of it"
        )
    needed = 2 * count if spare else count
    for group in rows:
        if len(group) < needed:
            label = examples[group.item(0)].target
            also = f", and as many to validate on, make {needed}" if spare else ""
            raise InputError(
                f"data.shots {count} of every label{also}, and {name} has {len(group)} rows of "
                f"{label!r}; lower it, or give more rows{' or --data.validation' * spare}"
            )
    drawn = _draws(rows, [needed] * len(rows), seed)
    train = np.sort(np.concatenate([group[:count] for group in drawn]))
    spared = np.sort(np.concatenate([group[count:] for group in drawn]))
    return taken(examples, train), taken(examples, spared)


def balanced(examples: Sequence[Example], task: Task, seed: int) -> Sequence[Example]:
    """The examples, and those of rarer labels again, until every label has as many.

    Raises:
      InputError: a task without label words.
    """
    if not task.choices:
        raise InputError(
            f"data.balanced makes labels equally frequent, and task {task.name!r} is a "
            f"{task.kind} without label words; leave it out"
        )
    rows = _strata(examples, task)
    most = max(map(len, rows))
    generator = np.random.default_rng(seed)
    again = [np.resize(generator.permutation(group), most - len(group)) for group in rows]
    return taken(examples, np.concatenate([np.arange(len(examples)), *again]).astype(int))


def hold_out(
    examples: Sequence[Example], fraction: float, task: Task, seed: int, name: str
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Examples to train on, and those held out to validate on; both in the order they had.

    Of a classification every label keeps its share in both. Each label that has two rows gives one
    at least, as long as that takes no more than a quarter of all rows, and none gives its last one.

    Args:
      fraction: of the examples that are held out.
      name: of the dataset, for errors.

    Raises:
      InputError: no row can be spared.
    """
    rows = _strata(examples, task)
    sizes = np.array([len(group) for group in rows], int)
    spare = sizes - 1
    if not spare.sum():
        raise InputError(
            f"{name} has no validation split and {len(examples)} rows, too few to hold any out; "
            "give --data.validation"
        )
    count = max(round(fraction * len(examples)), min(len(rows), len(examples) // 4), 1)
    shares = _shares(sizes, spare, min(count, int(spare.sum())))
    held = _drawn(rows, shares, seed)
    return taken(examples, np.delete(np.arange(len(examples)), held)), taken(examples, held)


def _strata(examples: Sequence[Example], task: Task) -> list[np.ndarray]:
    """Row numbers by label, in the order of the label words; all together of other tasks."""
    if not task.choices:
        return [np.arange(len(examples))]
    labels = label_numbers(examples, task)
    return [rows for i in range(len(task.choices)) if len(rows := np.flatnonzero(labels == i))]


def _shares(
    sizes: Int[np.ndarray, " K"], limits: Int[np.ndarray, " K"], count: int
) -> Int[np.ndarray, " K"]:
    """How many of `count` rows each stratum gives: in proportion to its size, up to its limit.

    One at least wherever its limit allows, when that makes no more than `count`.
    """
    exact = count * sizes / sizes.sum()
    least = (limits > 0).astype(int) if count >= (limits > 0).sum() else np.zeros_like(limits)
    shares = np.clip(np.floor(exact).astype(int), least, limits)
    # Rounding down leaves rows over, each for the stratum that is furthest below its share.
    while shares.sum() < count:
        shares[np.where(shares < limits, exact - shares, -np.inf).argmax()] += 1
    while shares.sum() > count:
        shares[np.where(shares > least, exact - shares, np.inf).argmin()] -= 1
    return shares


def _drawn(
    rows: Sequence[np.ndarray], shares: Int[np.ndarray, " K"], seed: int
) -> Int[np.ndarray, " N"]:
    return np.sort(np.concatenate(_draws(rows, shares, seed)))


def _draws(
    rows: Sequence[np.ndarray], shares: Int[np.ndarray, " K"] | Sequence[int], seed: int
) -> list[np.ndarray]:
    """So many rows of every stratum, in the order in which they are drawn."""
    generator = np.random.default_rng(seed)
    return [generator.permutation(group)[:n] for group, n in zip(rows, shares, strict=True)]
