"""loss(tuned, frozen, batch): trainable first, frozen second, data last."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones import Backbone
from prompt_jax.config import OBJECTIVES, InputError, MethodConfig, choose
from prompt_jax.data.alignment import IGNORED
from prompt_jax.forward import PromptedModel, for_tasks, only_real
from prompt_jax.generate.scoring import score_candidates
from prompt_jax.methods import materialize

Loss = Callable[..., tuple[Array, dict[str, Array]]]
AT_TOKENS = {
    "TOKEN_CLS": PromptedModel.token_logits,
    "QUESTION_ANS": PromptedModel.span_logits,
}
"""Heads whose targets stand at tokens of the text: [B, T, C] or [B, 2, T], as many as targets."""


def cross_entropy(
    logits: Float[Array, "B U V"],
    targets: Int[Array, "B U"],
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Float[Array, "B U"]:
    """Negative log-likelihood of every target token, in nats.

    Written with logsumexp, so no one-hot [B, U, V] array exists. Smoothing moves its mass to all V
    words evenly; `z_loss * log(Z)**2` keeps the normaliser near one.
    """
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if label_smoothing:
        picked = (1 - label_smoothing) * picked + label_smoothing * logits.mean(-1)
    return normalizer - picked + z_loss * jnp.square(normalizer)


def mean_loss(logits: Float[Array, "B U C"], labels: Int[np.ndarray, "B U"]) -> Float[Array, ""]:
    """Cross-entropy over the labels that are not `IGNORED`, in nats."""
    counted = jnp.asarray(labels != IGNORED)
    nll = cross_entropy(logits, jnp.maximum(labels, 0))
    return jnp.where(counted, nll, 0.0).sum() / jnp.maximum(counted.sum(), 1)


class Candidates(NamedTuple):
    """Label words as tokens, for losses that look at all of them."""

    tokens: Int[Any, "C U"]
    """With EOS, padded on the right."""
    mask: Bool[Any, "C U"]


class Pull(NamedTuple):
    """A tree that the tuned one is held near: L2 to the start, and wayward prompting."""

    anchor: Any
    """Of the tuned tree's structure."""
    weight: float


def _gold(batch: Any, candidates: Candidates) -> Int[Array, " B"]:
    """Which label word every target is; all of them are among the candidates."""
    width = max(batch.targets.shape[1], candidates.tokens.shape[1])

    def padded(tokens: Any, mask: Any) -> Array:
        shown = jnp.where(jnp.asarray(mask), jnp.asarray(tokens), -1)
        return jnp.pad(shown, ((0, 0), (0, width - shown.shape[1])), constant_values=-1)

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
    own = jax.nn.one_hot(gold, scores.shape[1], dtype=bool)
    other = jnp.where(own, -jnp.inf, scores).max(1)
    return jnp.maximum(0.0, margin + other - right).mean()


def loss_fn(
    method: MethodConfig,
    backbone: Backbone,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    objective: str = "tokens",
    candidates: Candidates | None = None,
    margin: float = 0.2,
    pull: Pull | None = None,
    module: Any | None = None,
) -> Loss:
    """The loss of a method on a backbone: `loss(tuned, frozen, batch, key=None) -> (mean, aux)`.

    It may also be told which virtual tokens are `real`, [P].

    The mean is over target tokens, or over rows for the objectives of label words. `aux` holds
    `tokens`, how many it was over, so that losses of micro-batches can be weighted. The backbone's
    weights are not closed over: they are `frozen`.

    Args:
      objective: `tokens`, cross-entropy of the target; `labels` or `perceptron`, see `label_loss`.
        With a head, whose classes are the label words, `tokens` is the same as `labels`.
      candidates: the label words, for these and for a head; every target is one of them.
      margin: of `perceptron`.
      pull: adds weight * the squared distance to the anchor, a row of a leaf.
      module: takes the place of the backbone's module; used to train with dropout.

    Raises:
      InputError: an unknown objective, one of label words without candidates, or a backbone that
        has no head over words where the method brings none.
    """
    choose("objective", objective, OBJECTIVES)
    if method.task_type == "SEQ_CLS" and method.num_labels and candidates is None:
        raise InputError(
            f"a head of {method.num_labels} classes needs the label words of the task; set "
            "task.labels"
        )
    if objective != "tokens" and candidates is None:
        raise InputError(
            f'objective="{objective}" compares label words and the task has none; set '
            'task.labels, or use objective="tokens"'
        )
    if method.task_type not in AT_TOKENS and not method.num_labels:
        backbone.check_word_head()
    module = module or backbone.module

    def loss(
        tuned: Any, frozen: Any, batch: Any, key: Any = None, real: Any = None
    ) -> tuple[Array, dict]:
        batch = jax.tree.map(jnp.asarray, batch)
        injection = for_tasks(materialize(method, tuned, key), batch.task_ids)
        injection = injection if real is None else only_real(injection, real)
        model = PromptedModel(module, frozen, injection, dropout=key)
        if method.task_type == "SEQ_CLS" and method.num_labels and candidates is not None:
            scores = model.class_logits(batch.tokens, batch.mask)
            over = "labels" if objective == "tokens" else objective
            mean = label_loss(over, scores, _gold(batch, candidates), margin)
            count = jnp.asarray(len(batch.targets))
        elif objective != "tokens" and candidates is not None:
            words = map(jnp.asarray, (*candidates, candidates.mask.sum(1)))
            scores = score_candidates(model, batch.tokens, batch.mask, *words)
            mean = label_loss(objective, scores, _gold(batch, candidates), margin)
            count = jnp.asarray(len(batch.targets))
        else:
            if method.task_type in AT_TOKENS:
                logits = AT_TOKENS[method.task_type](model, batch.tokens, batch.mask)
            else:
                logits = model.target_logits(batch.tokens, batch.mask, batch.targets)
            smooth = {"label_smoothing": label_smoothing, "z_loss": z_loss}
            nll = cross_entropy(logits, batch.targets, **smooth)
            count = batch.target_mask.sum()
            mean = jnp.where(batch.target_mask, nll, 0.0).sum() / jnp.maximum(count, 1)
        if pull is not None:
            mean = mean + pull.weight * _distance(tuned, pull.anchor)
        return mean, {"tokens": count}

    return loss


def _distance(tuned: Any, anchor: Any) -> Float[Array, ""]:
    """The squared distance of two trees, a row of every leaf."""
    parts = jax.tree.map(
        lambda ours, theirs: jnp.square(ours - jnp.asarray(theirs)).sum() / max(len(ours), 1),
        tuned,
        anchor,
    )
    return sum(jax.tree.leaves(parts), jnp.zeros(()))
