"""What every decoding starts with: the input read once into a cache, and the first logits."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones import Backbone, is_encoder
from prompt_jax.backbones.stack import LayerCache
from prompt_jax.forward import Injection, read_in, variables
from prompt_jax.generate.encoding import cloze_logits


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


def read_once(backbone: Backbone, injection: Injection | None) -> Injection | None:
    """The same prompt as keys and values that the model has made of it, where it may be had so.

    A decoder reads a prompt before any text, and the same for all texts: read once, it costs no
    later request a position. Whatever is not a plain prompt before the text comes back as it is,
    and so does one of a model that reads input and prompt in both directions.
    """
    if injection is None or injection.prompt is None or injection.prompt.ndim != 2:
        return injection
    rest = injection._replace(prompt=None)
    alone = injection.placement == "prefix" and not jax.tree.leaves(rest)
    if not alone or backbone.target_place != "behind" or backbone.config.bidirectional_input:
        return injection
    found = backbone.keys_and_values(injection.prompt)
    sockets = {f"{path}/prefix": key_and_value for path, key_and_value in found.items()}
    return Injection(sockets=flax.traverse_util.unflatten_dict(sockets, sep="/"))


def prefill(
    module: Any,
    frozen: Any,
    injection: Injection | None,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    length: int,
    rngs: dict[str, Any] | None = None,
) -> Prefilled:
    """Reads the input.

    Args:
      length: target tokens that the cache has room for.
    """
    if is_encoder(module.config):
        inputs = (module, frozen, injection, tokens, mask)
        logits = cloze_logits(*inputs, 1, rngs=rngs)
        return Prefilled(logits[:, 0], None, mask)
    given, embeddings, mask = read_in(module, frozen, injection, tokens, mask)
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
