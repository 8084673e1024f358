"""A number: by a trained head of one output with the squared error, or in words."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from prompt_jax.answers import written
from prompt_jax.answers.classes import head_program, logits
from prompt_jax.answers.readout import Answers, Head, LossOptions, Places
from prompt_jax.config import DataConfig, InputError
from prompt_jax.data import Batch
from prompt_jax.data.texts import cut_texts
from prompt_jax.data.tokens import Encoded, EncodeOptions, Truncated, sources_of
from prompt_jax.forward import PromptedModel
from prompt_jax.tasks import Example, Task
from prompt_jax.tasks.task import Kind, check_some, filled_example
from prompt_jax.tasks.text import Record
from prompt_jax.trees import Tokenizer


def example(task: Task, row: Record, place: str) -> Example:
    """Both templates, filled; the target is a number."""
    filled = filled_example(task, row, place)
    try:
        finite = math.isfinite(float(filled.target))
    except ValueError:
        finite = False
    if not finite:
        raise InputError(
            f"{place}: target {filled.target!r} is not a number; correct the row or --task.target, "
            "or leave task.kind out"
        )
    return filled


def mean_answer(
    task: Task, train: Sequence[Example], test: Sequence[Example]
) -> tuple[str, list[str]]:
    """The mean of the training targets, for every test example."""
    check_some(train, "train")
    mean = statistics.fmean(float(example.target) for example in train)
    return "mean", [text_of(mean)] * len(test)


def text_of(value: float) -> str:
    """A number as an answer."""
    return f"{value:.6g}"


def encode(
    examples: Sequence[Example], tokenizer: Tokenizer, data: DataConfig, options: EncodeOptions
) -> Encoded:
    """Examples as token ids, and every target as a float."""
    rows, long = cut_texts(tokenizer, sources_of(examples), data.max_source_length)
    targets = [np.array([float(example.target)], np.float32) for example in examples]
    return Encoded(rows, targets, Truncated(long, 0), options.pad_id(tokenizer))


def loss(
    model: PromptedModel, batch: Batch, options: LossOptions
) -> tuple[Float[Array, ""], Array]:
    """The mean squared error over rows."""
    # Both are [B, 1]; with [B] on one side every row would meet every target.
    errors = model.class_logits(batch.tokens, batch.mask) - batch.targets
    return jnp.square(errors).mean(), jnp.asarray(len(batch.targets))


def answers(
    task: Task, tokenizer: Tokenizer, results: list[Any], texts: Sequence[str], places: Places
) -> Answers:
    """The number of every text."""
    return Answers([text_of(float(value)) for (value,) in results])


def likelihood(answers: Answers, examples: Sequence[Example], task: Task) -> float:
    """The mean log-density, but for a constant, of the targets under a normal of unit variance."""
    pairs = zip(answers.predictions, examples, strict=True)
    errors = [float(prediction) - float(example.target) for prediction, example in pairs]
    return -statistics.fmean(error * error for error in errors) / 2


def mean_label_loss(
    logits: Float[Array, "B 1"], labels: Any, mask: Bool[np.ndarray, "B T"]
) -> Float[Array, ""]:
    """The mean squared error of numbers [B] or [B, 1], as Transformers has it for one label."""
    labels = np.asarray(labels, np.float32)
    if labels.shape not in (logits.shape, logits.shape[:1]):
        raise InputError(
            f"labels must be numbers of shape {list(logits.shape[:1])}, got shape "
            f"{list(labels.shape)}; give one number a text"
        )
    # To the shape of logits: [B, 1] less [B] would be [B, B].
    return jnp.square(logits - labels.reshape(logits.shape)).mean()


KIND = Kind(example=example, baseline=mean_answer)
READOUT = written.READOUT
HEAD = Head(
    loss=loss,
    program=head_program(logits, log_probs=False),
    answers=answers,
    encode=encode,
    likelihood=likelihood,
    task_type="SEQ_CLS",
    size=1,
    outputs="output, which is the number",
    logits=logits,
    label_loss=mean_label_loss,
)
