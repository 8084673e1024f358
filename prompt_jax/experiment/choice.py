"""Which prompt of a run is kept, what that choice is worth, and whether anything was learned."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from prompt_jax.config import Config
from prompt_jax.evaluate import Evaluation
from prompt_jax.experiment.splits import Data
from prompt_jax.metrics import Scores
from prompt_jax.runs import rank
from prompt_jax.tasks import label_numbers
from prompt_jax.train import is_finite
from prompt_jax.trees import Tuned

Scalar = np.ndarray | np.number
"""A number of numpy's, as checkpoints hold it: an array without axes once it is restored."""
FEW = 50
"""Validation rows below which a run says what one of them is worth."""


class Judgement(NamedTuple):
    """How good a prompt is on validation."""

    metrics: Scores
    """The metrics on all validation rows that are watched."""
    log_likelihood: float | None
    """How likely the right answers are, see `Evaluation`; None where it is not known."""
    few: bool = False
    """Whether the rows are so few that a metric cannot tell most prompts apart."""

    @property
    def scores(self) -> dict[str, float]:
        """The metrics and the log-likelihood, as a file of metrics has them."""
        likely = self.log_likelihood
        return {**self.metrics} if likely is None else {**self.metrics, "log_likelihood": likely}

    @property
    def score(self) -> float:
        """The deciding metric."""
        return self.metrics.score


class Best(NamedTuple):
    """The prompt to keep: the best on validation so far."""

    tuned: Tuned
    score: Scalar
    """The deciding metric."""
    likelihood: Scalar
    """Log-likelihood of the right answers, which decides between equal scores, and over few rows
    before them."""
    step: Scalar
    since: Scalar
    """Evaluations that came after it."""

    @property
    def rank(self) -> tuple[float, float]:
        """What prompts are compared by: equal scores by how likely the right answers are."""
        return float(self.score), float(self.likelihood)

    def after(self, judgement: Judgement, tuned: Tuned, step: int) -> "Best":
        """The best once another prompt is judged; of equals, the earlier one.

        A prompt that is no number is never the best: it answers all the same, by chance.
        """
        score, likelihood = map(np.float32, rank(judgement.score, judgement.log_likelihood))
        newest = Best(tuned, score, likelihood, np.int32(step), np.int32(0))
        new, old = (rank(*best.rank, judgement.few) for best in (newest, self))
        better = new > old and is_finite(tuned)
        return newest if better else self._replace(since=np.int32(self.since + 1))


def unjudged(tuned: Tuned) -> Best:
    """What is kept before the first evaluation."""
    worst = np.float32(-np.inf)
    return Best(tuned, worst, worst, np.int32(0), np.int32(0))


def joined(scores: Mapping[str, Scores]) -> Scores:
    """The metrics of the only task; of several, the deciding ones and their mean, which decides."""
    if len(scores) == 1:
        (only,) = scores.values()
        return only
    deciding = {name: metrics.score for name, metrics in scores.items()}
    return Scores({"mean": sum(deciding.values()) / len(deciding), **deciding}, "mean")


def judge(evaluations: Mapping[str, Evaluation]) -> Judgement:
    """A prompt by its answers to the validation rows of every task."""
    metrics = joined({name: evaluation.metrics for name, evaluation in evaluations.items()})
    likely = [evaluation.log_likelihood for evaluation in evaluations.values()]
    real = [value for value in likely if value is not None]
    few = any(len(evaluation.predictions) < FEW for evaluation in evaluations.values())
    return Judgement(metrics, sum(real) / len(real) if len(real) == len(likely) else None, few)


def warnings_of(data: Data, config: Config) -> list[str]:
    """What to know of the rows of a task: how they were read, and what is wrong with them."""
    task, lines = data.task, list(data.remarks)
    labels = set(label_numbers(data.train, task).tolist()) if task.choices else set()
    missing = [word for i, word in enumerate(task.choices) if i not in labels]
    if missing:
        lines.append(
            f"warning: {task.name}: no training row has the label {' or '.join(missing)}; its "
            "answers cannot be learned. Add rows, or correct task.labels or data.max_examples"
        )
    count = len(data.watched(config))
    if count < FEW:
        larger = " or a larger --data.validation-fraction" if data.held_out else ""
        rows = f"{count} validation row{'s' * (count > 1)}"
        lines.append(
            f"warning: {task.name}: with {rows} to choose a prompt by, each moves "
            f"{task.metrics[0]} by up to {1 / count:.3f}, so log-likelihood decides before it. "
            f"Give more rows with --data.validation{larger}"
        )
    return lines


def lesson(best: Best, rows: Sequence[Mapping[str, float]], metric: str) -> str:
    """A line where training did not raise the deciding metric; empty where it did.

    Args:
      rows: the metrics of a run, in which step 0 is the start.
      metric: the deciding one.
    """
    start = next((row for row in rows if row["step"] == 0), {})
    before, likely = (start.get(f"validation/{name}") for name in (metric, "log_likelihood"))
    if int(best.step) == 0:
        return (
            "warning: no step was better on validation than the start, so the prompt that is saved "
            "is untrained. Train longer (train.steps), at another train.learning_rate, or give "
            "more validation rows"
        )
    # Compared as float32, since the best score is kept so (`Best.after`).
    if before is None or np.float32(before) < best.score:
        return ""
    gain = "" if likely is None else f" ({likely:.3f} at the start, {best.likelihood:.3f} now)"
    return (
        f"note: {metric} on validation did not rise from {before:.3f}, where it began; the "
        f"prompt that is kept has the highest log-likelihood of the right answers{gain}"
    )
