"""loss(tuned, frozen, batch): trainable first, frozen second, data last."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_jax.answers import Candidates, LossOptions, readout_for
from prompt_jax.answers.heads import IN_WORDS
from prompt_jax.answers.readout import NO_CANDIDATES
from prompt_jax.backbones import Backbone
from prompt_jax.config import (
    DIVERGENCES,
    OBJECTIVES,
    InputError,
    MethodConfig,
    choose,
    method_kinds,
)
from prompt_jax.config.method import WRITES
from prompt_jax.forward import PromptedModel, TaskPrompts, for_tasks, only_real
from prompt_jax.methods import materializer, method_of
from prompt_jax.trees import Tuned

Loss = Callable[..., tuple[Array, dict[str, Array]]]


class Pull(NamedTuple):
    """A tree that the tuned one is held near: L2 to the start, and wayward prompting."""

    anchor: Any
    """Of the tuned tree's structure."""
    weight: float


def loss_fn(
    method: MethodConfig,
    backbone: Backbone,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    objective: str = "tokens",
    candidates: Candidates | None = None,
    margin: float = 0.2,
    divergence: str = "forward",
    temperature: float = 1.0,
    pull: Pull | None = None,
    module: nn.Module | None = None,
    kind: str = "",
) -> Loss:
    """The loss of a method on a backbone: `loss(tuned, frozen, batch, key=None) -> (mean, aux)`.

    It also takes which virtual tokens are `real`, [P].

    The mean is over target tokens, or over rows for the objectives of label words. `aux` holds
    `tokens`, how many it was over, so that losses of micro-batches can be weighted. The backbone's
    weights are not closed over: they are `frozen`.

    Args:
      objective: `tokens`, cross-entropy of the target; `labels` or `perceptron`, see `label_loss`;
        `distil`, see `distil_loss`.
        With a head, whose classes are the label words, `tokens` is the same as `labels`.
      candidates: the label words, for these and for a head; every target is one of them.
      pull: adds weight * the squared distance to the anchor, a row of a leaf.
      module: takes the place of the backbone's module; used to train with dropout.
      kind: of the task; empty is that of the method's head, or a text.

    Raises:
      InputError: an unknown objective, one of label words without candidates, or a backbone that
        has no head over words where the method brings none.
    """
    choose("objective", objective, OBJECTIVES)
    if method.task_type == "SEQ_CLS" and (method.num_labels or 0) > 1 and candidates is None:
        raise InputError(
            f"a head of {method.num_labels} classes needs the label words of the task; set "
            "task.labels"
        )
    if objective not in IN_WORDS and candidates is None:
        raise InputError(
            f'objective="{objective}" compares label words and the task has none; set '
            'task.labels, or use objective="tokens"'
        )
    if not method.num_labels:
        backbone.check_word_head()
    # A module has no weights, so the loss may close over it.
    module = module or backbone.module
    # Short inputs have room for more of what the backward pass reads.
    short, virtual = module.clone(config=module.config.for_short_inputs()), method.input_tokens
    readout, inject = readout_for(method, objective, kind), materializer(method)
    context_loss = method_of(method).context_loss
    candidates = NO_CANDIDATES if candidates is None else candidates
    # Constants of the program: label words are a few tokens.
    options = LossOptions(
        label_smoothing, z_loss, objective, candidates, margin, divergence, temperature
    )

    def loss(
        tuned: Any, frozen: Any, batch: Any, key: Any = None, real: Any = None
    ) -> tuple[Array, dict]:
        tuned, batch = jax.tree.map(jnp.asarray, (tuned, batch))
        injection = inject(tuned, key)
        if isinstance(injection, TaskPrompts):
            injection = for_tasks(injection, batch.task_ids)
        if real is not None:
            injection = only_real(injection, real)
        # One key for the model and for the method: without it there is no dropout anywhere.
        chosen = module if virtual + batch.tokens.shape[-1] > module.config.remat_beyond else short
        model = PromptedModel(chosen, frozen, injection, dropout=key)
        mean, count = readout.loss(model, batch, options)
        if context_loss is not None:
            context, tokens = context_loss(method, model)
            # Every row reads the context, and so counts its tokens.
            tokens = tokens * len(batch.tokens)
            mean = (mean * count + context * tokens) / jnp.maximum(count + tokens, 1)
            count = count + tokens
        if pull is not None:
            mean = mean + pull.weight * _distance(tuned, pull.anchor)
        return mean, {"tokens": count}

    return loss


def distil_loss(
    method: MethodConfig,
    backbone: Backbone,
    *,
    divergence: str = "forward",
    temperature: float = 1.0,
    module: nn.Module | None = None,
) -> Loss:
    """The loss of a student that has a prompt where its teacher has a text in the context.

    `loss(tuned, frozen, batch, key=None) -> (mean, aux)`, the mean over target tokens, as all
    losses. What the teacher says is in the batch, `Batch.likely`: the teacher is the same frozen
    model, and answers once.

    Args:
      divergence: `forward`, KL from the teacher to the student; `reverse`, from the student to the
        teacher; `cross_entropy`, of the teacher's likeliest word.
      temperature: of both, as in `DistilConfig`.
      module: as for `loss_fn`.

    Raises:
      InputError: an unknown divergence, or a method or a backbone that writes no words.
    """
    choose("divergence", divergence, DIVERGENCES)
    check_writes(method, backbone)
    return loss_fn(
        method,
        backbone,
        objective="distil",
        divergence=divergence,
        temperature=temperature,
        module=module,
    )


def check_writes(method: MethodConfig, backbone: Backbone) -> None:
    """Checks that a prompt of a method can stand in for a text: it changes what a model writes.

    Raises:
      InputError: it cannot.
    """
    if backbone.config.is_encoder:
        raise InputError(
            f"backbone {backbone.name!r} only reads, so that no prompt of it stands in for a text; "
            "use a T5 or a decoder"
        )
    if method.num_labels is None and method.task_type in WRITES:
        return
    able = [name for name, config in method_kinds().items() if _writes(config)]
    raise InputError(
        f"{method.kind} with a head of task_type {method.task_type} answers a task, and cannot "
        f"stand in for a text in the context; take one of {', '.join(able)}, without num_labels"
    )


def _writes(config: type[MethodConfig]) -> bool:
    """Whether a method needs no head and no second task."""
    return config.kind != "head" and config.num_tasks is None


def _distance(tuned: Tuned, anchor: Tuned) -> Float[Array, ""]:
    """The squared distance of two trees, a row of every leaf."""
    parts = jax.tree.map(
        lambda leaf, start: jnp.square(leaf - jnp.asarray(start)).sum() / max(len(leaf), 1),
        tuned,
        anchor,
    )
    return sum(jax.tree.leaves(parts), jnp.zeros(()))
