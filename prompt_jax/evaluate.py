"""Answers, judged: the metrics of a prompt, of the plain backbone, and of knowing nothing."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.data import IGNORED, span_targets, tag_targets
from prompt_jax.forward import Injection
from prompt_jax.generate import Progress, Reading, answer, target_likelihood
from prompt_jax.metrics import measure
from prompt_jax.sharding import whole_rows
from prompt_jax.tasks import Example, Task, words_of


class Evaluation(NamedTuple):
    """How N examples were answered."""

    metrics: dict[str, float]
    """By name, the deciding one first."""
    predictions: list[str]
    """In the order of the examples."""
    scores: Float[np.ndarray, "N C"] | None
    """The log-likelihood of every label word, as it was ranked; None for other kinds."""
    log_likelihood: float | None
    """Mean log-probability, in nats, of what is right: of a label among all of them, of a tag, of
    an end of a span, or of a target's token; None of a generation where it is not wanted."""


def evaluate(
    backbone: Backbone,
    injection: Injection | None,
    examples: Sequence[Example],
    task: Task,
    *,
    data: DataConfig,
    eval: EvalConfig,
    progress: Progress | None = None,
    likelihood: bool = False,
) -> Evaluation:
    """Ranks the label words of a classification task or writes answers, and scores them.

    Args:
      injection: None evaluates the plain backbone.
      progress: called after every batch with the answered and all examples.
      likelihood: also of a generation, where it takes one more pass over the examples.

    Raises:
      InputError: there are no examples, or the backbone has no tokenizer.
    """
    _check_some(examples, "evaluate")
    # A handful of examples in a large batch would be copies for the most part.
    rows = whole_rows(min(eval.rows, len(examples)), backbone.mesh)
    eval = dataclasses.replace(eval, batch_size=rows)
    sources = [example.source for example in examples]
    way: dict[str, Any] = {"data": data, "eval": eval}
    answers = answer(backbone, injection, sources, task, **way, progress=progress)
    references = [example.references for example in examples]
    metrics = measure(task.metrics, answers.predictions, references, task.labels)
    likely = None
    if answers.scores is not None:
        likely = _of_labels(answers.scores, references, task.choices)
    elif answers.readings is not None:
        likely = _of_readings(answers.readings, examples, task)
    elif likelihood:
        targets = [example.target for example in examples]
        likely = target_likelihood(backbone, injection, sources, targets, **way)
    return Evaluation(metrics, answers.predictions, answers.scores, likely)


def _of_labels(
    scores: Float[np.ndarray, "N C"], references: Sequence[Sequence[str]], labels: Sequence[str]
) -> float:
    right = np.array([[label in own for label in labels] for own in references])
    with np.errstate(invalid="ignore"):  # A prompt that diverged has no likelihood: NaN.
        shares = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return float(np.logaddexp.reduce(np.where(right, shares, -np.inf), axis=1).mean())


def _of_readings(
    readings: Sequence[Reading], examples: Sequence[Example], task: Task
) -> float | None:
    """The mean over all tags, or over the ends of all spans; what was cut off is left out."""
    number = {tag: i for i, tag in enumerate(task.labels)}
    right = []
    for (scores, places), example in zip(readings, examples, strict=True):
        if task.kind == "tagging":
            tags = [number[tag] for tag in example.target.split()]
            targets = tag_targets(example.source, places, tags)
            tokens = np.flatnonzero(targets != IGNORED)
            right.append(scores[tokens, targets[tokens]])
        elif example.start is not None:
            stop = example.start + len(example.target)
            ends = span_targets(places, example.start, stop)
            right += [] if ends is None else [scores[[0, 1], ends]]
    return float(np.concatenate(right).mean()) if right else None


def baselines(
    train: Sequence[Example], test: Sequence[Example], task: Task
) -> dict[str, dict[str, float]]:
    """Metrics of answers that need no model: what a prompt has to beat.

    The most frequent label or tag of `train`, or the input itself where the answer is a text.

    Raises:
      InputError: no examples to count or to judge.
    """
    _check_some(test, "test")
    references = [example.references for example in test]
    if not task.labels:
        copies = [example.source for example in test]
        return {"copy input": measure(task.metrics, copies, references)}
    _check_some(train, "train")
    if task.kind == "tagging":
        tags = collections.Counter(tag for example in train for tag in example.target.split())
        majority = tags.most_common(1)[0][0]
        answers = [" ".join([majority] * len(words_of(example.source))) for example in test]
    else:
        (majority, _), *_ = collections.Counter(example.target for example in train).most_common(1)
        answers = [majority] * len(test)
    return {"majority": measure(task.metrics, answers, references, task.labels)}


def _check_some(examples: Sequence[Example], kind: str) -> None:
    if not examples:
        raise InputError(f"there are no examples to {kind} on; give at least one")
