"""Answers of several prompts to one request, made into one."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from prompt_jax.answers.ensemble import combine
from prompt_jax.serve.reader import Scored


class Ensembled(NamedTuple):
    """What several prompts say together."""

    best: int
    """Which candidate they choose."""
    scores: Float[np.ndarray, " C"]
    """As `generate.combine` has them."""
    digests: tuple[str, ...]


def ensembled(
    futures: "Sequence[Future[Scored]]", how: str, weights: Sequence[float] | None
) -> "Future[Ensembled]":
    """What they say together once all are there; the first error where there is one."""
    whole: Future[Ensembled] = Future()
    left = [len(futures)]
    lock = threading.Lock()

    def done(_: object) -> None:
        with lock:
            left[0] -= 1
            if left[0]:
                return
        if not whole.set_running_or_notify_cancel():
            return
        try:
            whole.set_result(_together([future.result() for future in futures], how, weights))
        except Exception as error:  # Of one of them, and for whoever asked them all.
            whole.set_exception(error)

    for future in futures:
        future.add_done_callback(done)
    return whole


def _together(found: list[Scored], how: str, weights: Sequence[float] | None) -> Ensembled:
    said = np.stack([each.log_likelihoods for each in found])[None]
    said = said - np.logaddexp.reduce(said, axis=-1, keepdims=True)
    best, scores = combine(said, how, weights)
    return Ensembled(int(best[0]), scores[0], tuple(each.digest for each in found))
