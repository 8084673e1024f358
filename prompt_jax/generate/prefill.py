"""What every decoding starts with: the input read once into a cache, and the first logits."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones import Backbone, is_encoder
from prompt_jax.backbones.stack import LayerCache
from prompt_jax.generate.encoding import cloze_logits
from prompt_jax.methods import Injection, read_in, variables


class Prefilled(NamedTuple):
    """A model that has read its input and is about to write."""

    logits: Float[Array, "B V"]
    """Of the first target token."""
    cache: LayerCache | None
    """None of an encoder, which fills a mask and goes on with nothing."""
    mask: Bool[Array, "B S"]
    """Of the input, virtual tokens included."""


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
    rngs: dict[str, Any] | None = None,
) -> Prefilled:
    """Reads the input.

    Args:
      length: target tokens that the cache has room for.
    """
    if is_encoder(module.config):
        inputs = (module, frozen, injection, tokens, mask)
        logits = cloze_logits(*inputs, 1, placement=placement, rngs=rngs)
        return Prefilled(logits[:, 0], None, mask)
    given, embeddings, mask = read_in(module, frozen, injection, tokens, mask, placement)
    logits, cache = module.apply(given, embeddings, mask, length, method="prefill", rngs=rngs)
    return Prefilled(logits, cache, mask)


def decode_token(
    module: Any,
    frozen: Any,
    injection: Injection | None,
    tokens: Int[Array, " B"],
    mask: Bool[Array, "B S"],
    cache: LayerCache,
    index: Int[Array, ""],
) -> tuple[Float[Array, "B V"], LayerCache]:
    """Logits of the token that follows `tokens`, the `index`-th of the answer, from 1."""
    arguments = (tokens[:, None], None, mask, cache, index)
    logits, cache = module.apply(variables(injection, frozen), *arguments, method="decode")
    return logits[:, 0], cache
