"""Answers, judged: the metrics of a prompt, of the plain backbone, and of knowing nothing."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.generate import Progress, answer
from prompt_jax.methods import Injection
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
    """The log-likelihood of every label word, as it was ranked; None for generation."""
    log_likelihood: float | None
    """Mean log-probability, in nats, of a right label among all of them; None for generation."""


def evaluate(
    backbone: Backbone,
    injection: Injection | None,
    examples: Sequence[Example],
    task: Task,
    *,
    data: DataConfig,
    eval: EvalConfig,
    placement: str = "prefix",
    frozen: Any = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Ranks the label words of a classification task or writes answers, and scores them.

    Args:
      injection: None evaluates the plain backbone.
      frozen: the weights; None takes `backbone.params`.
      progress: called after every batch with the answered and all examples.

    Raises:
      InputError: there are no examples, or the backbone has no tokenizer.
    """
    _check_some(examples, "evaluate")
    # A handful of examples in a large batch would be copies for the most part.
    rows = whole_rows(min(eval.batch_size, len(examples)), backbone.mesh)
    eval = dataclasses.replace(eval, batch_size=rows)
    predictions, scores = answer(
        backbone,
        injection,
        [example.source for example in examples],
        task,
        data=data,
        eval=eval,
        placement=placement,
        frozen=frozen,
        progress=progress,
    )
    references = [example.references for example in examples]
    metrics = measure(task.metrics, predictions, references, task.labels)
    likely = None if scores is None else _log_likelihood(scores, references, task.choices)
    return Evaluation(metrics, predictions, scores, likely)


def _log_likelihood(
    scores: Float[np.ndarray, "N C"], references: Sequence[Sequence[str]], labels: Sequence[str]
) -> float:
    shares = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    right = np.array([[label in own for label in labels] for own in references])
    return float(np.logaddexp.reduce(np.where(right, shares, -np.inf), axis=1).mean())


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
