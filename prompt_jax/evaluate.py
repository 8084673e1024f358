"""Answers, judged: the metrics of a prompt, of the plain backbone, and of knowing nothing."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from prompt_jax.answers import Progress, answer, readout_in, target_likelihood
from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.forward import Injection
from prompt_jax.metrics import Scores, measure
from prompt_jax.sharding import whole_rows
from prompt_jax.tasks import Example, Task, taught
from prompt_jax.tasks.task import check_some, kind_of


class Evaluation(NamedTuple):
    """How N examples were answered."""

    metrics: Scores
    """By name, with the deciding one."""
    predictions: list[str]
    """In the order of the examples."""
    scores: Float[np.ndarray, "N C"] | None
    """The log-likelihood of every label word, as it was ranked; None for other kinds."""
    log_likelihood: float | None
    """Mean log-probability, in nats, of what is right: of a label or a candidate among all, of a
    tag, of an end of a span, or of a target's token; of numbers, minus half the squared error. None
    of a generation where it is not wanted."""


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
      likelihood: also of a generation, where it takes one more pass over the examples.

    Raises:
      InputError: there are no examples, or the backbone has no tokenizer.
    """
    check_some(examples, "evaluate")
    # A handful of examples in a large batch would be copies for the most part.
    rows = whole_rows(min(eval.rows, len(examples)), backbone.mesh)
    eval = dataclasses.replace(eval, batch_size=rows)
    sources = [example.source for example in examples]
    way: dict[str, Any] = {"data": data, "eval": eval}
    answers = answer(backbone, injection, sources, task, **way, progress=progress)
    references = [example.references for example in examples]
    groups = [example.group for example in examples]
    metrics = measure(task.metrics, answers.predictions, references, task.labels, groups)
    # From the scores that ranked the answers, so that it takes no second pass.
    log_likelihood = readout_in(injection, task).likelihood(answers, examples, task)
    if log_likelihood is None and likelihood:
        log_likelihood = _written_likelihood(backbone, injection, examples, task, **way)
    return Evaluation(metrics, answers.predictions, answers.scores, log_likelihood)


def answer_likelihood(
    backbone: Backbone,
    injection: Injection | None,
    examples: Sequence[Example],
    task: Task,
    *,
    data: DataConfig,
    eval: EvalConfig,
) -> float:
    """`Evaluation.log_likelihood` alone: where answers are texts, none is written.

    Args:
      injection: None is the plain backbone.

    Raises:
      InputError: as `evaluate`.
    """
    way: dict[str, Any] = {"data": data, "eval": eval}
    if task.kind == "generation":
        check_some(examples, "evaluate")
        return _written_likelihood(backbone, injection, examples, task, **way)
    value = evaluate(backbone, injection, examples, task, **way, likelihood=True).log_likelihood
    if value is None:
        raise InputError(f"how likely the answers to a {task.kind} are is not known")
    return value


def _written_likelihood(
    backbone: Backbone,
    injection: Injection | None,
    examples: Sequence[Example],
    task: Task,
    **way: Any,
) -> float:
    pairs = taught(task, examples) or examples
    texts = ([pair.source for pair in pairs], [pair.target for pair in pairs])
    return target_likelihood(backbone, injection, *texts, task, **way)


def baselines(train: Sequence[Example], test: Sequence[Example], task: Task) -> dict[str, Scores]:
    """Metrics of answers that need no model: what a prompt has to beat.

    The most frequent label or tag of `train`, its mean number, or the input itself where the answer
    is a text.
    """
    check_some(test, "test")
    name, answers = kind_of(task.kind).baseline(task, train, test)
    references = [example.references for example in test]
    groups = [example.group for example in test]
    return {name: measure(task.metrics, answers, references, task.labels, groups)}
