"""Heads that read: the class of a text, the tags of its words, the span that answers it."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones import Backbone
from prompt_jax.data import first_tokens
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.sharding import place_rows

LONGEST_SPAN = 30  # In tokens, as the scripts for SQuAD have it.

_logits = {
    "classification": jax.jit(PromptedModel.class_logits),
    "tagging": jax.jit(PromptedModel.token_logits),
    "span": jax.jit(PromptedModel.span_logits),
}


def classify(
    backbone: Backbone,
    injection: Injection,
    tokens: Int[Array | np.ndarray, "B T"],
    mask: Bool[Array | np.ndarray, "B T"],
    *,
    kind: str = "classification",
) -> Float[Array, "B *T C"]:
    """Log-probabilities by the head of `injection`.

    Args:
      kind: `classification`, of every class [B, C]; `tagging`, of every tag at every token
        [B, T, C]; `span`, of every token as the first and as the last one [B, 2, T].

    Raises:
      InputError: more tokens than the backbone has positions.
    """
    mask = np.asarray(mask, bool)
    backbone.check_context(injection.positions, backbone.longest(mask), 0)
    rows = (np.asarray(tokens, np.int32), mask)
    model = PromptedModel.of(backbone, injection)
    logits = _logits[kind](model, *place_rows(rows, backbone.mesh))
    return jax.nn.log_softmax(logits, axis=-1)


def tags(
    scores: Float[np.ndarray, "T C"],
    text: str,
    places: Int[np.ndarray, "K 2"],
    labels: tuple[str, ...],
) -> str:
    """The tag of every word of a text; words that were cut off have the first one, "O"."""
    best = scores.argmax(-1)
    first = first_tokens(text, places)
    return " ".join(labels[best[token] if token >= 0 else 0] for token in first)


def span(
    scores: Float[np.ndarray, "2 T"],
    text: str,
    places: Int[np.ndarray, "K 2"],
    labels: tuple[str, ...] = (),
) -> str:
    """The likeliest part of a text, of at most `LONGEST_SPAN` tokens; empty of a text without.

    With `labels`, which are `NO_ANSWER`, it is empty too where the first token, which stands for
    no answer, is likelier than any part.
    """
    tokens = np.flatnonzero(places[:, 0] < places[:, 1])
    if not len(tokens):
        return ""
    first, last = scores[:, tokens]
    ahead = tokens[None, :] - tokens[:, None]
    together = np.where((ahead >= 0) & (ahead < LONGEST_SPAN), first[:, None] + last, -np.inf)
    begin, end = np.unravel_index(together.argmax(), together.shape)
    if "" in labels and scores[:, 0].sum() > together[begin, end]:
        return ""
    return text[places[tokens[begin], 0] : places[tokens[end], 1]]


READERS: dict[str, Callable[..., str]] = {"tagging": tags, "span": span}
"""What the scores of a text say in words, by the kind of task."""
