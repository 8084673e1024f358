"""What a model that reads makes of a text: classes by a trained head, or the words of a cloze."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.layers import NEVER
from prompt_jax.forward import (
    Injection,
    apply_head,
    prepend,
    read_in,
    text_mask,
    text_states,
    variables,
)


def encode_text(
    module: Any,
    frozen: Any,
    injection: Injection | None,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    rngs: dict[str, Any] | None = None,
) -> Float[Array, "B T D"]:
    """The states of the text's own tokens, wherever the prompt stands."""
    given, *joined = read_in(module, frozen, injection, tokens, mask)
    states = module.apply(given, *joined, method="encode", rngs=rngs)
    return text_states(injection, states, mask)


def token_logits(
    module: Any,
    frozen: Any,
    injection: Injection,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    rngs: dict[str, Any] | None = None,
) -> Float[Array, "B T C"]:
    """What the head says of every token of the text."""
    states = encode_text(module, frozen, injection, tokens, mask, rngs=rngs)
    return apply_head(injection.head, states, None)


def place_logits(
    module: Any,
    frozen: Any,
    injection: Injection,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    rngs: dict[str, Any] | None = None,
) -> Float[Array, "B 2 T"]:
    """What the head says of every token as the first, and as the last one of the answer."""
    logits = token_logits(module, frozen, injection, tokens, mask, rngs=rngs)
    return at_places(logits, mask)


def at_places(
    logits: Float[Array, "B T 2"], mask: Bool[Array | np.ndarray, "B T"]
) -> Float[Array, "B 2 T"]:
    """Logits of the first and the last token over the places of a text, none at padding."""
    return jnp.where(mask[..., None], logits, NEVER).swapaxes(1, 2)


def class_logits(
    module: Any,
    frozen: Any,
    injection: Injection,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    rngs: dict[str, Any] | None = None,
) -> Float[Array, "B C"]:
    """What the head says of every text.

    PEFT's head reads a position, whatever stands there (`pool_prompt`); ours the text's own tokens.
    """
    given = variables(injection, frozen)
    embeddings = module.apply(given, tokens, method="embed")
    joined = prepend(injection, embeddings, mask)
    states = module.apply(given, *joined, method="encode", rngs=rngs)
    seen = text_mask(injection, embeddings, mask)
    if injection.pool_prompt is not None:
        seen = seen | injection.pool_prompt
    pooled = module.apply(given, states, seen, method="pool", rngs=rngs)
    return apply_head(injection.head, pooled, module.config.head("SEQ_CLS").hidden)


def cloze_logits(
    module: Any,
    frozen: Any,
    injection: Injection | None,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    count: int,
    *,
    rngs: dict[str, Any] | None = None,
) -> Float[Array, "B U V"]:
    """Logits of the words in place of the first U = `count` masks of every text.

    A text of fewer masks gives those of its first tokens, which nobody should ask for.
    """
    states = encode_text(module, frozen, injection, tokens, mask, rngs=rngs)
    masks = (tokens == module.config.mask_token_id) & mask
    places = jnp.argsort(~masks, axis=1, stable=True)[:, :count]
    states = jnp.take_along_axis(states, places[:, :, None], axis=1)
    return module.apply(variables(injection, frozen), states, method="words")
