"""What every decoding starts with: the input encoded once, and the first decoder step.

That step fills the keys and values of cross-attention, so no later one sees the encoder.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.t5 import LayerCache, empty_cache
from prompt_jax.methods import Injection, prepend, variables


class Prefilled(NamedTuple):
    """The state of a decoder that has read its start token."""

    logits: Float[Array, "B V"]
    """Of the first target token."""
    cache: LayerCache
    mask: Bool[Array, "B S"]
    """Of the encoder's states, virtual tokens included."""


def decoding_module(backbone: Backbone) -> nn.Module:
    """The backbone's module with its layers scanned.

    Layers apart train faster on CPU, but they decode no faster and compile for longer.
    """
    scanned = dataclasses.replace(backbone.config, scan=True)
    return dataclasses.replace(backbone, config=scanned).module


def prefill(
    module: Any,
    frozen: Any,
    injection: Injection | None,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    placement: str,
    length: int,
) -> Prefilled:
    """Encodes the input and reads the start token.

    Args:
      length: target tokens that the cache has room for, the start token among them.
    """
    given = variables(injection, frozen)
    config = module.config
    embeddings = module.apply(given, tokens, method="embed")
    embeddings, mask = prepend(injection, embeddings, mask, placement)
    encoded = module.apply(given, embeddings, mask, method="encode")
    start = jnp.full((tokens.shape[0], 1), config.decoder_start_token_id, jnp.int32)
    virtual = 0 if injection is None else injection.decoder_tokens
    cache = empty_cache(config, tokens.shape[0], length + virtual)
    logits, cache = module.apply(given, start, encoded, mask, cache, method="decode")
    return Prefilled(logits[:, 0], cache, mask)


def decode_token(
    module: Any,
    frozen: Any,
    injection: Injection | None,
    tokens: Int[Array, " B"],
    mask: Bool[Array, "B S"],
    cache: LayerCache,
    index: Int[Array, ""],
) -> tuple[Float[Array, "B V"], LayerCache]:
    """Logits of the token that follows `tokens`, which stand at position `index`."""
    arguments = (tokens[:, None], None, mask, cache, index)
    logits, cache = module.apply(variables(injection, frozen), *arguments, method="decode")
    return logits[:, 0], cache
