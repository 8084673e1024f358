"""Which rows are taken out of many: drawn by a seed, every label in its share."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from prompt_jax.config import InputError
from prompt_jax.tasks import Example, Task


def sample(examples: Sequence[Example], count: int | None, task: Task, seed: int) -> list[Example]:
    """So many examples in the order they had; all of them when there are no more.

    Of a classification every label keeps its share, and one row at least where `count` allows:
    files are often sorted by label, so that their first rows have one label only.
    """
    if count is None or len(examples) <= count:
        return list(examples)
    rows = _strata(examples, task)
    sizes = np.array([len(group) for group in rows])
    return [examples[i] for i in _drawn(rows, _shares(sizes, sizes, count), seed)]


def hold_out(
    examples: Sequence[Example], fraction: float, task: Task, seed: int, name: str
) -> tuple[list[Example], list[Example]]:
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
    held = set(_drawn(rows, shares, seed))
    train = [example for i, example in enumerate(examples) if i not in held]
    return train, [examples[i] for i in sorted(held)]


def _strata(examples: Sequence[Example], task: Task) -> list[np.ndarray]:
    """Row numbers by label, in the order of the label words; all together of other tasks."""
    if not task.choices:
        return [np.arange(len(examples))]
    targets = np.array([example.target for example in examples])
    return [rows for word in task.choices if len(rows := np.flatnonzero(targets == word))]


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


def _drawn(rows: Sequence[np.ndarray], shares: Int[np.ndarray, " K"], seed: int) -> list[int]:
    generator = np.random.default_rng(seed)
    parts = [generator.permutation(group)[:n] for group, n in zip(rows, shares, strict=True)]
    return np.sort(np.concatenate(parts)).tolist()
