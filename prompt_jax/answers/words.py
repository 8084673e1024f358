"""A label word: ranked among all label words by its likelihood, as a target or in a cloze."""

import collections
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prompt_jax.answers.readout import Answers, Candidates, LossOptions, Places, Program, Readout
from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig
from prompt_jax.data import Batch, encode_labels, pad
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.generate import read_once, score, score_candidates
from prompt_jax.sharding import on_host
from prompt_jax.tasks import Example, Task, label_word
from prompt_jax.tasks.labels import label_of
from prompt_jax.tasks.task import (
    Kind,
    check_some,
    filled_example,
    filled_source,
    filled_target,
    lone_column,
)
from prompt_jax.tasks.text import Record
from prompt_jax.trees import Tokenizer


def example(task: Task, row: Record, place: str) -> Example:
    """Both templates, filled; the target as the label word that it is."""
    column = lone_column(task.target)
    cell = row.get(column) if column else None
    # As in nearly all of a million rows: a label word as it stands, so there is nothing to fill.
    if isinstance(cell, str) and (label := label_of(task, cell.strip())) is not None:
        return Example(filled_source(task, row, place), label)
    filled = filled_example(task, row, place)
    return filled._replace(target=label_word(task, filled.target, place))


def labels_in(template: str, row: Record, place: str) -> list[str]:
    """The target as the only label."""
    return [filled_target(template, row, place)]


def majority(
    task: Task, train: Sequence[Example], test: Sequence[Example]
) -> tuple[str, list[str]]:
    """The most frequent target of the training examples, for every test example."""
    check_some(train, "train")
    (label, _), *_ = collections.Counter(example.target for example in train).most_common(1)
    return "majority", [label] * len(test)


def gold(batch: Batch, candidates: Candidates) -> Int[Array, " B"]:
    """Which label word every target is; all of them are among the candidates."""
    width = max(batch.targets.shape[1], candidates.tokens.shape[1])

    def padded(tokens: Any, mask: Any) -> Array:
        # Targets and label words may be padded to different lengths; -1 is no token.
        visible = jnp.where(jnp.asarray(mask), jnp.asarray(tokens), -1)
        return jnp.pad(visible, ((0, 0), (0, width - visible.shape[1])), constant_values=-1)

    targets = padded(batch.targets, batch.target_mask)[:, None]
    words = padded(candidates.tokens, candidates.mask)[None]
    return (targets == words).all(-1).argmax(-1)


def label_loss(
    objective: str, scores: Float[Array, "B C"], gold: Int[Array, " B"], margin: float
) -> Float[Array, ""]:
    """The mean over rows of a loss over label words.

    `labels` is the cross-entropy of the right word among all. `perceptron` wants the right word
    ahead of the best other one by `margin`; the right one itself is left out of that maximum, or
    it would hide the margin.
    """
    right = jnp.take_along_axis(scores, gold[:, None], axis=1)[:, 0]
    if objective == "labels":
        return (jax.nn.logsumexp(scores, axis=1) - right).mean()
    # A mask and no index: the right word is another column in every row.
    is_right = jax.nn.one_hot(gold, scores.shape[1], dtype=bool)
    best_wrong = jnp.where(is_right, -jnp.inf, scores).max(1)
    return jnp.maximum(0.0, margin + best_wrong - right).mean()


def loss(
    model: PromptedModel, batch: Batch, options: LossOptions
) -> tuple[Float[Array, ""], Array]:
    """The loss over label words by their likelihood, a mean over rows."""
    candidates = options.candidates
    words = map(jnp.asarray, (*candidates, candidates.mask.sum(1)))
    scores = score_candidates(model, batch.tokens, batch.mask, *words)
    mean = label_loss(options.objective, scores, gold(batch, candidates), options.margin)
    return mean, jnp.asarray(len(batch.targets))


def program(
    backbone: Backbone, injection: Injection | None, task: Task, data: DataConfig, eval: EvalConfig
) -> Program:
    """Log-likelihoods [B, C] of all label words."""
    injection = read_once(backbone, injection)
    words = (backbone.tokenizer, task.ranked, data.max_target_length)
    # Once for all batches, as every text has the same label words.
    rows = encode_labels(*words, place=task.target_place(backbone.target_place))
    candidates = pad(rows, max(map(len, rows)), backbone.config.filler)
    normalize = eval.length_normalize
    return lambda tokens, mask, texts: on_host(
        score(backbone, injection, tokens, mask, *candidates, length_normalize=normalize)
    )


def answers(
    task: Task, tokenizer: Tokenizer, results: list[Any], texts: Sequence[str], places: Places
) -> Answers:
    """The likeliest label word of every text."""
    labels = task.choices
    scores = np.stack(results) if results else np.zeros((0, len(labels)), np.float32)
    predictions = [labels[best] for best in scores.argmax(1)]
    return Answers(predictions, scores, [labels] * len(results))


def likelihood(answers: Answers, examples: Sequence[Example], task: Task) -> float:
    """The mean log-probability of the right candidates, normalised over those of the row."""
    pairs = zip(answers.options or (), examples, strict=True)
    scores = np.asarray(answers.scores)
    right = np.zeros(scores.shape, bool)
    for row, (options, example) in zip(right, pairs, strict=True):
        row[: len(options)] = [option in example.references for option in options]
    with np.errstate(invalid="ignore"):  # A prompt that diverged has no likelihood: NaN.
        # Scores are of all texts that may be written; shares are among a row's options.
        shares = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return float(np.logaddexp.reduce(np.where(right, shares, -np.inf), axis=1).mean())


KIND = Kind(example=example, labels_in=labels_in, baseline=majority)
READOUT = Readout(loss=loss, program=program, answers=answers, likelihood=likelihood, ahead=True)
