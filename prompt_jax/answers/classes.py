"""Classification: a label word, ranked in words or read off a trained head of as many classes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.answers import words
from prompt_jax.answers.readout import Head, LossOptions, Program, plain_head
from prompt_jax.answers.written import mean_loss
from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig, InputError, MethodConfig
from prompt_jax.data import IGNORED, Batch
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.sharding import on_host, place_rows
from prompt_jax.tasks import Task


def classify(
    backbone: Backbone,
    injection: Injection,
    tokens: Int[Array | np.ndarray, "B T"],
    mask: Bool[Array | np.ndarray, "B T"],
) -> Float[Array, "B C"]:
    """Log-probabilities of every class by the head of `injection`.

    Raises:
      InputError: more tokens than the backbone has positions.
    """
    return jax.nn.log_softmax(head_logits(logits, backbone, injection, tokens, mask))


def head_logits(
    logits: Callable[..., Array],
    backbone: Backbone,
    injection: Injection,
    tokens: Int[Array | np.ndarray, "B T"],
    mask: Bool[Array | np.ndarray, "B T"],
) -> Float[Array, "B *T C"]:
    """What compiled `logits(model, tokens, mask)` give, once the texts are known to fit."""
    mask = np.asarray(mask, bool)
    backbone.check_context(injection.positions, backbone.longest(mask), 0)
    rows = place_rows((np.asarray(tokens, np.int32), mask), backbone.mesh)
    return logits(PromptedModel.of(backbone, injection), *rows)


def head_program(logits: Callable[..., Array], *, log_probs: bool = True) -> Callable[..., Program]:
    """The `program` of a head: its compiled logits, as log-probabilities unless told otherwise."""

    def program(
        backbone: Backbone, injection: Injection, task: Task, data: DataConfig, eval: EvalConfig
    ) -> Program:
        def run(tokens: np.ndarray, mask: np.ndarray, texts: Sequence[str]) -> Any:
            scores = head_logits(logits, backbone, injection, tokens, mask)
            # A whole batch comes to the host at once; readers go over it in numpy.
            return on_host(jax.nn.log_softmax(scores) if log_probs else scores)

        return run

    return program


def loss(
    model: PromptedModel, batch: Batch, options: LossOptions
) -> tuple[Float[Array, ""], Array]:
    """The loss over the classes of the head, a mean over rows."""
    scores = model.class_logits(batch.tokens, batch.mask)
    # A head has no tokens to predict, and its classes are the label words.
    objective = "labels" if options.objective == "tokens" else options.objective
    right = words.gold(batch, options.candidates)
    mean = words.label_loss(objective, scores, right, options.margin)
    return mean, jnp.asarray(len(batch.targets))


def configure(head: Head, method: MethodConfig, backbone: Backbone, task: Task) -> MethodConfig:
    """The method with a head, or as a cloze where the template has a mask for the label word."""
    blank = getattr(backbone.tokenizer, "mask_token", None)
    if not task.choices:
        raise InputError(
            f"SEQ_CLS chooses among label words and task {task.name!r} has none; set task.labels"
        )
    if len(task.choices) == 1:
        raise InputError(
            f"task {task.name!r} has one label word, {task.choices[0]!r}, and a head chooses among "
            "two at least; give more in task.labels"
        )
    if method.num_labels is None and blank and blank in task.source:
        backbone.check_word_head()
        return dataclasses.replace(method, task_type=head.task_type)
    return plain_head(head, method, backbone, task)


def class_labels(labels: Any, shape: Sequence[int], classes: int) -> Int[np.ndarray, "..."]:
    """The labels of a head as a caller gives them, checked."""
    labels = np.asarray(labels)
    if labels.shape != shape or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels must be integers of shape {list(shape)}, got {labels.dtype} of shape "
            f"{list(labels.shape)}; they are of the text only, the prompt has none"
        )
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != IGNORED)]
    if wrong.size:
        raise InputError(f"labels hold {wrong[0]}; allowed: 0 to {classes - 1} and {IGNORED}")
    return labels


def mean_label_loss(
    logits: Float[Array, "B C"], labels: Any, mask: Bool[np.ndarray, "B T"]
) -> Float[Array, ""]:
    """Cross-entropy of classes [B]."""
    labels = class_labels(labels, (len(mask),), logits.shape[-1])
    # As of texts of one place, so that `IGNORED` is left out here too.
    return mean_loss(logits[:, None], labels[:, None])


# At module level: a jit that is made for every call would compile every time.
logits = jax.jit(PromptedModel.class_logits)
KIND = words.KIND
READOUT = words.READOUT
HEAD = Head(
    loss=loss,
    program=head_program(logits),
    answers=words.answers,
    likelihood=words.likelihood,
    task_type="SEQ_CLS",
    configure=configure,
    logits=logits,
    label_loss=mean_label_loss,
)
