"""What several prompts choose together, each in a row of its own."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from prompt_jax.answers.ensemble import combine
from prompt_jax.serve.scoring import Scored


class Ensembled(NamedTuple):
    """What several prompts choose together."""

    best: int
    """Number of the candidate."""
    scores: Float[np.ndarray, " C"]
    """Mean log-probabilities, as `answers.combine` returns them."""
    digests: tuple[str, ...]


def ensembled(
    futures: "Sequence[Future[Scored]]", how: str, weights: Sequence[float] | None
) -> "Future[Ensembled]":
    """The joint answer once all answers are there; the first error where there is one."""
    joint: Future[Ensembled] = Future()
    left = [len(futures)]
    # The engine settles futures in its thread and callers cancel them in theirs.
    lock = threading.Lock()

    def done(_: object) -> None:
        with lock:
            left[0] -= 1
            if left[0]:
                return
        if not joint.set_running_or_notify_cancel():
            return
        try:
            joint.set_result(_combined([future.result() for future in futures], how, weights))
        except Exception as error:  # One prompt's error is the error of the ensemble.
            joint.set_exception(error)

    for future in futures:
        future.add_done_callback(done)
    return joint


def _combined(answers: list[Scored], how: str, weights: Sequence[float] | None) -> Ensembled:
    log_probs = np.stack([answer.log_likelihoods for answer in answers])[None]
    # Likelihoods of candidates are comparable between prompts only once each prompt's sum to one.
    log_probs = log_probs - np.logaddexp.reduce(log_probs, axis=-1, keepdims=True)
    best, scores = combine(log_probs, how, weights)
    return Ensembled(int(best[0]), scores[0], tuple(answer.digest for answer in answers))
