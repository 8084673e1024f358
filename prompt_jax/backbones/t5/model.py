"""T5 in Linen: 1.0, 1.1, LM-adapted, Flan, mT5, ByT5 and umT5 by config, not by copies.

The encoder reads embeddings, not tokens, because a prompt stands between the two (`embed`, then
`__call__`). Layers are scanned, so their parameters carry L in front and a 24-layer model compiles
as fast as a 2-layer one. Raffel et al. 2020 (arXiv 1910.10683); 1.1 follows Shazeer 2020.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.layers import (
    Dense,
    look_up,
    mask_bias,
    relative_buckets,
    word_logits,
)
from prompt_jax.backbones.sockets import prefix_is_padded, prefix_length, socket
from prompt_jax.backbones.stack import LayerCache, dropout, empty_cache, kept, stack, written
from prompt_jax.backbones.t5.blocks import DecoderBlock, EncoderBlock, RelativeBias, norm
from prompt_jax.backbones.t5.config import T5Config
from prompt_jax.backbones.t5.names import sockets


class Encoder(nn.Module):
    """[B, S, D] embeddings to [B, S, D] states."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        c = self.config
        tuned = self.variables.get("tuned", {})
        prefix = prefix_length(tuned, "attention")
        positions, keys = jnp.arange(x.shape[1]), jnp.arange(-prefix, x.shape[1])
        if prefix_is_padded(tuned, "attention"):
            # It ends where the text begins, and so behind the padding that a row may begin with.
            begins = jnp.argmax(mask, axis=1)[:, None]
            keys = jnp.where((keys < 0)[None], keys[None] + begins, keys[None])
        buckets = _buckets(c, positions, keys, bidirectional=True)
        biases = (_key_bias(mask, prefix),)
        if not c.bias_per_layer:
            biases = (*biases, RelativeBias(c, name="relative_bias")(buckets))
        x = dropout(self, x.astype(c.dtype))
        x, _ = stack(self, EncoderBlock, c.num_layers, x, biases, buckets)
        return dropout(self, norm(c, "final_norm")(x))


class Decoder(nn.Module):
    """[B, U, D] embeddings of target tokens to [B, U, D] states."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B U D"],
        encoded: Float[Array, "B S D"] | None,
        mask: Bool[Array, "B S"],
        cache: LayerCache | None,
        index: Int[Array, ""],
    ) -> tuple[Float[Array, "B U D"], LayerCache | None]:
        c, tuned = self.config, self.variables.get("tuned", {})
        prompt = socket(self, "prompt")
        virtual = 0 if prompt is None else prompt.shape[-2]
        if prompt is not None and encoded is not None:  # The first call, before any target.
            rows = jnp.broadcast_to(prompt.astype(x.dtype), (len(x), virtual, c.d_model))
            x = jnp.concatenate([rows, x], axis=1)
        elif virtual:
            index = index + virtual
        prefix = prefix_length(tuned, "attention")
        queries = index + jnp.arange(x.shape[1])
        keys = jnp.arange(-prefix, x.shape[1] if cache is None else cache.key.shape[3])
        buckets = _buckets(c, queries, keys, bidirectional=False)
        biases = (mask_bias(keys[None, :] <= queries[:, None])[None, None],)
        if not c.bias_per_layer:
            biases = (*biases, RelativeBias(c, name="relative_bias")(buckets))
        cross_bias = _key_bias(mask, prefix_length(tuned, "cross_attention"))
        x = dropout(self, x.astype(c.dtype))
        shared = (biases, buckets, index, encoded, cross_bias)
        x, added = stack(self, DecoderBlock, c.num_decoder_layers, x, *shared, each=(cache,))
        if cache is not None:
            cache = written(cache, added, index)
        if virtual and encoded is not None:
            x = x[:, virtual:]
        return dropout(self, norm(c, "final_norm")(x)), cache


def _key_bias(mask: Bool[Array, "B S"], prefix: int) -> Float[Array, "B 1 1 PS"]:
    """The bias that hides masked keys; a prefix stands before them and is seen."""
    return mask_bias(jnp.pad(mask, ((0, 0), (prefix, 0)), constant_values=True))[:, None, None, :]


def _buckets(c: T5Config, queries: Array, keys: Array, *, bidirectional: bool) -> Array:
    return relative_buckets(
        queries,
        keys,
        bidirectional=bidirectional,
        buckets=c.relative_attention_num_buckets,
        max_distance=c.relative_attention_max_distance,
    )


class T5(nn.Module):
    """The whole model; `embed` and `__call__` are what the rest of the library uses."""

    config: T5Config

    def setup(self):
        c = self.config
        self.embedding = self.param(
            "embedding",
            nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed")),
            (c.vocab_size, c.d_model),
        )
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        if not c.tie_embeddings:
            head = ((c.d_model, c.vocab_size), ("embed", "vocab"), c.d_model**-0.5)
            self.head = Dense(*head, dtype=c.dtype)

    def embed(self, tokens: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        """Rows of the embedding table; T5 scales nothing here."""
        return look_up(self, "embedding", tokens)

    def encode(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The encoder's states; a prompt, if any, is already in `embeddings` and `mask`."""
        return self.encoder(embeddings, mask)

    def decode(
        self,
        decoder_tokens: Int[Array, "B U"],
        encoded: Float[Array, "B S D"] | None,
        mask: Bool[Array, "B S"],
        cache: LayerCache | None = None,
        index: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B U V"], LayerCache | None]:
        """Logits of the next token after every decoder token.

        With a `cache`, see `prefill`, the first call needs `encoded` and fills the keys and
        values of cross-attention; later calls pass `encoded=None` and only the new tokens, whose
        first one stands at position `index`. Virtual tokens of the decoder come into the cache
        with the first call and count in its length, but not in `index`.
        """
        c = self.config
        x = self.embed(decoder_tokens)
        x, cache = self.decoder(x, encoded, mask, cache, jnp.asarray(index))
        if c.scale_logits:
            x = x * c.d_model**-0.5
        return word_logits(self, x, None if c.tie_embeddings else self.head), cache

    def __call__(
        self,
        embeddings: Float[Array, "B S D"],
        mask: Bool[Array, "B S"],
        decoder_tokens: Int[Array, "B U"],
    ) -> Float[Array, "B U V"]:
        """Logits [B, U, V], float32; `decoder_tokens` start with the decoder's start token."""
        return self.decode(decoder_tokens, self.encode(embeddings, mask), mask)[0]

    def predict(
        self,
        embeddings: Float[Array, "B S D"],
        mask: Bool[Array, "B S"],
        targets: Int[Array, "B U"],
    ) -> Float[Array, "B U V"]:
        """Logits [B, U, V] of every target token, from the input and the targets before it."""
        return self(embeddings, mask, shift_right(targets, self.config.decoder_start_token_id))

    def prefill(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"], length: int
    ) -> tuple[Float[Array, "B V"], LayerCache | None]:
        """Logits of the first target token, and the cache that `decode` goes on with.

        The cache has the keys and values of cross-attention, so no later step sees the encoder.

        Args:
          length: target tokens that the cache has room for, the start token among them.
        """
        c, batch = self.config, len(mask)
        prompt = self.variables.get("tuned", {}).get("decoder", {}).get("prompt")
        room = length + (0 if prompt is None else prompt.shape[-2])
        cache = empty_cache(c, c.num_heads, c.num_decoder_layers, batch, room)
        start = jnp.full((batch, 1), c.decoder_start_token_id, jnp.int32)
        logits, cache = self.decode(start, self.encode(embeddings, mask), mask, cache)
        return logits[:, 0], cache


@functools.partial(jax.jit, static_argnums=0)
def keys_and_values(config: T5Config, params: Any, tokens: Int[Array, " T"]) -> dict[str, Any]:
    """What every attention makes of a text that the encoder and the decoder both read.

    Returns:
      By path, `key` and `value` [L, T, H, K].
    """
    module = T5(dataclasses.replace(config, scan=True))
    text = tokens[None]
    embeddings = module.apply({"params": params}, text, method="embed")
    inputs = shift_right(text, config.decoder_start_token_id)
    mask = jnp.ones(text.shape, bool)
    _, sown = module.apply({"params": params}, embeddings, mask, inputs, mutable=["intermediates"])
    return kept(sown["intermediates"], sockets(config).attentions)


def shift_right(targets: Int[Array, "B U"], start: int) -> Int[Array, "B U"]:
    """Decoder inputs of `targets`: the start token, then every target but the last."""
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=start)


@functools.partial(
    jax.jit, static_argnums=0, static_argnames="boxed"
)  # Eagerly it compiles four times as long.
def init_params(config: T5Config, key: jax.Array, *, boxed: bool = False) -> Any:
    """Random parameters; under `jax.eval_shape` their shapes, for models of any size.

    Args:
      boxed: keeps the names of every leaf's axes beside it.
    """
    embeddings = jnp.zeros((1, 1, config.d_model), config.dtype)
    mask, tokens = jnp.ones((1, 1), bool), jnp.zeros((1, 1), jnp.int32)
    params: Any = T5(config).init(key, embeddings, mask, tokens)["params"]
    return params if boxed else nn.unbox(params)
