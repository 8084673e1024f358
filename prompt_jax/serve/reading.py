"""What a batch of rows is asked at once: words to weigh, a head's classes, a vector of the text."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.layers import NEVER
from prompt_jax.forward import PromptedModel
from prompt_jax.generate.scoring import score_candidates
from prompt_jax.serve.bank import Layout, rows_of
from prompt_jax.serve.slots import Version

Leaves = Mapping[str, Array]
BEFORE_THE_TEXT = ("prompt", "mask", "shift", "head/")


class Candidates(NamedTuple):
    """What a row weighs."""

    tokens: Int[np.ndarray, "C U"]
    real: Bool[np.ndarray, "C U"]
    normalize: bool


def profiles(layout: Layout) -> tuple[frozenset[str], ...]:
    """Parts of a slot that programs are compiled for, the cheapest first.

    A batch whose prompts only stand before the text does not pay for what others do in the layers.
    """
    whole = frozenset(layout)
    before = frozenset(path for path in layout if path.startswith(BEFORE_THE_TEXT))
    return tuple(dict.fromkeys((before, whole)))


def profile_of(known: Iterable[frozenset[str]], versions: Iterable[Version]) -> frozenset[str]:
    """The first part of a slot that has all that these prompts do."""
    needed = {path for version in versions for path in version.leaves}
    return next(part for part in known if needed <= part)


def some(leaves: Leaves, part: frozenset[str]) -> Leaves:
    """Those leaves of a bank that a program reads."""
    return {path: leaf for path, leaf in leaves.items() if path in part}


@functools.partial(jax.jit, static_argnames="module")
def score_rows(
    module: Any,
    frozen: Any,
    leaves: Leaves,
    slots: Int[Any, " B"],
    tokens: Int[Any, "B T"],
    mask: Bool[Any, "B T"],
    candidates: Int[Any, "B C U"],
    real: Bool[Any, "B C U"],
    divisor: Int[Any, "B C"],
) -> Float[Array, "B C"]:
    """The log-likelihood of every candidate of every row, in nats."""
    model = PromptedModel(module, frozen, rows_of(leaves, slots))
    return score_candidates(model, tokens, mask, candidates, real, divisor)


@functools.partial(jax.jit, static_argnames="module")
def classify_rows(
    module: Any,
    frozen: Any,
    leaves: Leaves,
    slots: Int[Any, " B"],
    tokens: Int[Any, "B T"],
    mask: Bool[Any, "B T"],
    classes: Int[Any, " B"],
) -> Float[Array, "B C"]:
    """The log-probability of every class by every row's own head, of which a row has so many."""
    model = PromptedModel(module, frozen, rows_of(leaves, slots))
    logits = model.class_logits(tokens, mask)
    own = jnp.arange(logits.shape[1])[None, :] < classes[:, None]
    return jax.nn.log_softmax(jnp.where(own, logits, NEVER), axis=-1)


@functools.partial(jax.jit, static_argnames="module")
def embed_rows(
    module: Any,
    frozen: Any,
    leaves: Leaves,
    slots: Int[Any, " B"],
    tokens: Int[Any, "B T"],
    mask: Bool[Any, "B T"],
) -> Float[Array, "B D"]:
    """The mean of the states of every text's own tokens, float32."""
    model = PromptedModel(module, frozen, rows_of(leaves, slots))
    states = model.text_states(tokens, mask)
    weight = mask[:, :, None].astype(jnp.float32)
    return (states.astype(jnp.float32) * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)
