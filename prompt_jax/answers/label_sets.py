"""Several labels of one text, or none: every label word is answered by itself.

In words a label applies where it is likelier than `none`; a head has a sigmoid for each.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from prompt_jax.answers import classes, words
from prompt_jax.answers.readout import Answers, Head, LossOptions, Places, Program, Readout
from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.data import Batch
from prompt_jax.data.texts import cut_texts
from prompt_jax.data.tokens import Encoded, EncodeOptions, Truncated, sources_of
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.generate import score_candidates
from prompt_jax.metrics import SEVERAL, labels_of
from prompt_jax.tasks import Example, Task, label_word
from prompt_jax.tasks.task import NONE, Kind, filled_source, filled_target, lone_column
from prompt_jax.tasks.templates import is_empty, reach
from prompt_jax.tasks.text import Record
from prompt_jax.trees import Tokenizer


def labels_in(template: str, row: Record, place: str) -> list[str]:
    """The labels of a row: a list, or a text in which commas, semicolons or bars part them."""
    column = lone_column(template)
    cell = reach(row, column, place) if column else None
    if isinstance(cell, list):
        return [str(label).strip() for label in cell if not is_empty(label)]
    if isinstance(cell, str) and not cell.strip():
        return []
    parts = re.split(r"[,;|]", filled_target(template, row, place))
    return [part.strip() for part in parts if part.strip()]


def example(task: Task, row: Record, place: str) -> Example:
    """The source, and its labels in the order of the task."""
    names = {label_word(task, name, place) for name in labels_in(task.target, row, place)}
    labels = SEVERAL.join(label for label in task.labels if label in names)
    return Example(filled_source(task, row, place), labels)


def complete(task: Task, examples: Sequence[Example]) -> Task:
    """The task, whose label words are checked."""
    for label in task.labels:
        if label == NONE or "," in label:
            raise InputError(
                f"task {task.name!r} is a multi label and has the label word {label!r}; rows "
                f"without a label are {NONE!r} and commas part labels, so choose another word, "
                "e.g. task.labels VALUE=WORD"
            )
    if "f1" in task.metrics:
        raise InputError(
            f"f1 is of one of two classes, and task {task.name!r} is a multi label; use "
            "micro_f1 or macro_f1"
        )
    if len(task.labels) < 2:
        raise InputError(
            f"task {task.name!r} is a multi label and has {len(task.labels)} label word; give two "
            "at least, or task.kind classification with a word for rows without it"
        )
    return task


def encode(
    examples: Sequence[Example], tokenizer: Tokenizer, data: DataConfig, options: EncodeOptions
) -> Encoded:
    """Examples as token ids, and for every label 1 where it applies."""
    rows, long = cut_texts(tokenizer, sources_of(examples), data.max_source_length)
    targets = list(applies(examples, options.labels).astype(np.float32))
    return Encoded(rows, targets, Truncated(long, 0), options.pad_id(tokenizer))


def applies(examples: Sequence[Example], labels: Sequence[str]) -> Bool[np.ndarray, "N C"]:
    """Which labels are those of an example."""
    sets = [set(labels_of(example.target, labels)) for example in examples]
    return np.array([[label in names for label in labels] for names in sets], bool)


def mean_loss(logits: Float[Array, "B C"], targets: Any) -> Float[Array, ""]:
    """The binary cross-entropy of every label, a mean over labels and rows."""
    return optax.sigmoid_binary_cross_entropy(logits, jnp.asarray(targets)).mean()


def loss(
    model: PromptedModel, batch: Batch, options: LossOptions
) -> tuple[Float[Array, ""], Array]:
    """The loss of label words by their likelihood."""
    candidates = options.candidates
    # Of the candidates, `none` is the last.
    tokens = map(jnp.asarray, (*candidates, candidates.mask.sum(1)))
    scores = score_candidates(model, batch.tokens, batch.mask, *tokens)
    return mean_loss(above_none(scores), batch.targets), jnp.asarray(len(batch.targets))


def above_none(scores: Any) -> Any:
    """How far every label word [B, C] is ahead of `none`, the last column of [B, C + 1]."""
    return scores[:, :-1] - scores[:, -1:]


def head_loss(
    model: PromptedModel, batch: Batch, options: LossOptions
) -> tuple[Float[Array, ""], Array]:
    """The loss of the sigmoids of a head."""
    scores = model.class_logits(batch.tokens, batch.mask)
    return mean_loss(scores, batch.targets), jnp.asarray(len(batch.targets))


def program(
    backbone: Backbone, injection: Injection | None, task: Task, data: DataConfig, eval: EvalConfig
) -> Program:
    """Logits [B, C] of all label words."""
    run = words.program(backbone, injection, task, data, eval)
    return lambda tokens, mask, texts: above_none(run(tokens, mask, texts))


def answers(
    task: Task, tokenizer: Tokenizer, results: list[Any], texts: Sequence[str], places: Places
) -> Answers:
    """The labels of every text that are likelier than not."""
    labels = task.labels
    logits = np.stack(results) if results else np.zeros((0, len(labels)), np.float32)
    predictions = [
        SEVERAL.join(label for label, logit in zip(labels, row, strict=True) if logit > 0)
        for row in logits
    ]
    # log(sigmoid), written so that it does not overflow.
    scores = -np.logaddexp(0.0, -logits)
    return Answers(predictions, scores, [labels] * len(results), apart=True)


def likelihood(answers: Answers, examples: Sequence[Example], task: Task) -> float:
    """The mean over rows of the log-probability that all labels are as they should be."""
    scores = np.asarray(answers.scores, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # A label may be certain.
        others = np.log(-np.expm1(scores))
    right = np.where(applies(examples, task.labels), scores, others)
    return float(right.sum(1).mean())


def mean_label_loss(
    logits: Float[Array, "B C"], labels: Any, mask: Bool[np.ndarray, "B T"]
) -> Float[Array, ""]:
    """The binary cross-entropy of labels [B, C], each 0 or 1, as Transformers has it."""
    labels = np.asarray(labels, np.float32)
    if labels.shape != logits.shape:
        raise InputError(
            f"labels must be 0 or 1 of shape {list(logits.shape)}, got shape "
            f"{list(labels.shape)}; give one for every label of a text"
        )
    return mean_loss(logits, labels)


KIND = Kind(example=example, labels_in=labels_in, complete=complete, baseline=words.majority)
READOUT = Readout(
    loss=loss,
    program=program,
    answers=answers,
    encode=encode,
    likelihood=likelihood,
    ahead=True,
    always=True,
)
HEAD = Head(
    loss=head_loss,
    program=classes.head_program(classes.logits, log_probs=False),
    answers=answers,
    encode=encode,
    likelihood=likelihood,
    task_type="SEQ_CLS",
    logits=classes.logits,
    label_loss=mean_label_loss,
)
