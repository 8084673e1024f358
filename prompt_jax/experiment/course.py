"""How far candidates are, and which of them train on: successive halving, ASHA, populations."""

from typing import NamedTuple

import numpy as np

from prompt_jax.config import SweepConfig

RATES = (0.8, 1.25)
"""What `pbt` multiplies a copied member's learning rate and weight decay by."""


class Course(NamedTuple):
    """How far M candidates are; arrays, so that a checkpoint holds them."""

    rung: np.ndarray
    """[M], rungs that each has reached."""
    scores: np.ndarray
    """[M, rungs], what each was judged by at each rung; NaN where none was reached."""
    parent: np.ndarray
    """[M, rungs], whose prompt it went on with from there; itself where from its own."""
    rates: np.ndarray
    """[M, rungs, 2], learning rate and weight decay from there; NaN where they stayed."""


def begin(count: int, rungs: int) -> Course:
    """A course in which nobody has trained yet."""
    return Course(
        np.zeros(count, np.int32),
        np.full((count, rungs), np.nan, np.float32),
        np.repeat(np.arange(count, dtype=np.int32)[:, None], rungs, axis=1),
        np.full((count, rungs, 2), np.nan, np.float32),
    )


def all_steps(count: int, sweep: SweepConfig, steps: int) -> int:
    """Steps of all candidates together, of which `asha` may make a few more."""
    total, before, entered = 0, 0, count
    for rung, target in enumerate(sweep.targets(steps)):
        if rung and sweep.how in ("halving", "asha"):
            entered = max(1, entered // sweep.eta)
        total += entered * (target - before)
        before = target
    return total


def ready(course: Course, sweep: SweepConfig) -> list[int]:
    """Candidates that may train towards their next rung, those furthest ahead first.

    `halving` waits until all that may come have reached a rung, and lets the best go on; `asha`
    lets the best of those that have come go on, and starts others meanwhile; for the next
    generation of `pbt` all have to be there.
    """
    count, rungs = course.scores.shape
    waiting: list[int] = []
    entered = count
    for rung in range(rungs):
        there = np.flatnonzero(course.rung >= rung)
        places = len(there)
        if rung and sweep.how == "pbt" and places < count:
            places = 0
        elif rung and sweep.how in ("halving", "asha"):
            full = len(there) >= entered
            # A rung lets in one of every eta that entered the one before it.
            entered = max(1, entered // sweep.eta)
            places = entered if full else len(there) // sweep.eta if sweep.how == "asha" else 0
        # Stable: of equals the earlier candidate, in a resumed sweep too. NaN comes last.
        order = np.argsort(-course.scores[there, rung - 1], kind="stable") if rung else ...
        allowed = there[order][:places].tolist()
        waiting = [i for i in allowed if course.rung[i] == rung] + waiting
    return waiting


def followers(course: Course, rung: int, generator: np.random.Generator) -> dict[int, int]:
    """Who goes on with whose prompt once all have reached a rung: the worst with the best's."""
    order = np.argsort(-course.scores[:, rung], kind="stable")
    quarter = max(1, len(order) // 4)
    best, worst = order[:quarter].tolist(), order[-quarter:].tolist()
    return {i: int(generator.choice(best)) for i in worst if i not in best}
