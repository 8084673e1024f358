"""What a law is about: a method on a backbone, with everything that several laws compute once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from prompt_jax.answers import Candidates
from prompt_jax.backbones import Backbone
from prompt_jax.config import MethodConfig, TrainConfig
from prompt_jax.data import Batch
from prompt_jax.forward import Injection, PromptedModel, TaskPrompts, for_tasks
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init, materialize, resolve
from prompt_jax.testing.models import random_batch
from prompt_jax.train import compile_step

TRAINING = TrainConfig(steps=3, batch_size=4, optimizer="adamw", learning_rate=1e-2)
"""What laws of training train with."""
LABELS = Candidates(np.array([[40], [41], [42]]), np.ones((3, 1), bool))
"""The classes of a head, as words of one token."""

# Compiled once for all subjects of a shape.
_target_logits = jax.jit(PromptedModel.target_logits)
_class_logits = jax.jit(PromptedModel.class_logits)


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A method on a backbone.

    Example:
      >>> subject = Subject(tiny("t5"), pj.IA3Config(), neutral=True)
      >>> LAWS["saved_equals_loaded"](subject)
    """

    backbone: Backbone
    method: MethodConfig
    """Its `task_type` becomes the backbone's first one, unless it has a head."""
    neutral: bool = False
    """Whether a fresh tree leaves the backbone's logits as they are, to the bit."""
    tolerance: float = 0.0
    """How far from them, where a fresh tree is neutral but for rounding."""

    @functools.cached_property
    def config(self) -> MethodConfig:
        """The method with the names of the backbone's kernels."""
        task_type = self.method.task_type if self.head else self.backbone.task_types[0]
        return resolve(_with_task_type(self.method, task_type), self.backbone)

    @property
    def head(self) -> bool:
        """Whether classes are read off a trained head."""
        return self.method.num_labels is not None

    @functools.cached_property
    def loss(self) -> Callable[..., tuple[Array, dict[str, Array]]]:
        """`loss(tuned, frozen, batch, key=None) -> (mean, aux)`."""
        return loss_fn(self.config, self.backbone, candidates=LABELS if self.head else None)

    @functools.cached_property
    def step(self) -> Callable[..., Any]:
        """A compiled training step, see `compile_step`."""
        return compile_step(self.loss, TRAINING)

    @functools.cached_property
    def gradient(self) -> Callable[..., Any]:
        """`gradient(tuned, frozen, batch) -> ((mean, aux), tree)`, compiled."""
        return jax.jit(jax.value_and_grad(self.loss, has_aux=True))

    def batch(self, seed: int = 0, **sizes: int) -> Batch:
        """A random batch, see `random_batch`; with a head its targets are label words."""
        if not self.head:
            return random_batch(self.backbone, seed, **sizes)
        batch = random_batch(self.backbone, seed, **{**sizes, "target": 1})
        labels = np.random.default_rng(seed).choice(LABELS.tokens, len(batch.tokens))
        return batch._replace(targets=labels.astype(np.int32))

    def fresh(self, seed: int = 0) -> PyTree:
        """A tuned tree before any training."""
        return init(self.config, self.backbone, jax.random.key(seed))

    def trained(self, seed: int = 0) -> PyTree:
        """A tuned tree that has left its start: no leaf is zero by construction."""
        if seed not in self._trained:
            tuned = jax.tree.map(np.asarray, self.fresh(seed))
            for step in range(3):
                _, gradient = self.gradient(tuned, self.backbone.params, self.batch(step))
                tuned = jax.tree.map(_descend, tuned, gradient)
            self._trained[seed] = tuned
        return jax.tree.map(jnp.asarray, self._trained[seed])

    @functools.cached_property
    def _trained(self) -> dict[int, PyTree]:
        return {}

    def injection(self, tuned: PyTree) -> Injection | TaskPrompts:
        """What a tuned tree puts into the model."""
        return materialize(self.config, tuned)

    def logits(self, injection: Injection | TaskPrompts | None, batch: Batch) -> Array:
        """[B, U, V] of the targets, or [B, C] of a head's classes."""
        arrays = (jnp.asarray(batch.tokens), jnp.asarray(batch.mask))
        if injection is not None:
            injection = for_tasks(injection, batch.task_ids)
        model = PromptedModel(self.backbone.module, self.backbone.params, injection)
        if injection is not None and injection.head is not None:
            return _class_logits(model, *arrays)
        return _target_logits(model, *arrays, jnp.asarray(batch.targets))


def _descend(leaf: np.ndarray, gradient: Array) -> np.ndarray:
    """A step down by 0.02 at most; nothing is compiled for it."""
    change = np.asarray(gradient)
    return (leaf - 0.02 * change / max(np.abs(change).max(), 1e-12)).astype(np.float32)


def _with_task_type(method: MethodConfig, task_type: str) -> MethodConfig:
    """The method for a kind of task, with the parts that it is a union of."""
    changes: dict[str, Any] = {"task_type": task_type}
    if hasattr(method, "methods"):
        changes["methods"] = tuple(
            _with_task_type(part, task_type) for part in getattr(method, "methods", ())
        )
    return dataclasses.replace(method, **changes)
