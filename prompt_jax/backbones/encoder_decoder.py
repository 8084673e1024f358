"""What models of an encoder and a decoder share: how the rest of the library calls them."""

import abc

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.cache import LayerCache
from prompt_jax.backbones.config import ModelConfig
from prompt_jax.backbones.layers import look_up


class EncoderDecoder(nn.Module):
    """A prompt stands in the encoder's input; targets are read by a decoder of their own."""

    config: ModelConfig

    def embed(self, tokens: Int[Array, "*B T"], table: str = "embedding") -> Float[Array, "*B T D"]:
        """Rows of an embedding table, scaled where the model scales them before its stacks."""
        rows, scale = look_up(self, table, tokens), self.config.embedding_scale
        # Rounded to the type of the rows, as models were trained.
        return rows if scale == 1 else rows * jnp.asarray(scale, rows.dtype)

    @abc.abstractmethod
    def encode(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The encoder's states; a prompt, if any, is already in `embeddings` and `mask`."""

    @abc.abstractmethod
    def decode(
        self,
        tokens: Int[Array, "B U"],
        encoded: Float[Array, "B S D"] | None,
        mask: Bool[Array, "B S"],
        cache: LayerCache | None = None,
        index: Int[Array, "*B"] | int = 0,
    ) -> tuple[Float[Array, "B U V"], LayerCache | None]:
        """Logits of the next token after every decoder token.

        With a `cache`, see `prefill`, the first call needs `encoded` and fills the keys and
        values of cross-attention; later calls pass `encoded=None` and only the new tokens, whose
        first one stands at position `index`, in all rows or in each. Virtual tokens of the decoder
        come into the cache with the first call and count in its length, but not in `index`.
        """

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
        logits = self(embeddings, mask, shift_right(targets, self.config.start_tokens))
        return logits[:, -targets.shape[1] :]

    def prefill(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"], length: int
    ) -> tuple[Float[Array, "B V"], LayerCache | None]:
        """Logits of the first target token, and the cache that `decode` goes on with.

        The cache has the keys and values of cross-attention, so no later step sees the encoder.

        Args:
          length: target tokens that the cache has room for, a start token among them.
        """
        # The decoder's own virtual tokens take places of its cache.
        batch, prompt, start = len(mask), self.decoder_prompt, self.config.start_tokens
        places = length + len(start) - 1 + (0 if prompt is None else prompt.shape[-2])
        cache = self.room(mask, places)
        read = jnp.broadcast_to(jnp.array(start, jnp.int32), (batch, len(start)))
        logits, cache = self.decode(read, self.encode(embeddings, mask), mask, cache)
        return logits[:, -1], cache

    @abc.abstractmethod
    def room(self, mask: Bool[Array, "B S"], places: int) -> LayerCache:
        """An empty cache with room for so many tokens of the decoder, virtual ones among them."""

    @property
    def decoder_prompt(self) -> Float[Array, "*B P D"] | None:
        """Virtual tokens before a target, where a method put some."""
        return self.variables.get("tuned", {}).get("decoder", {}).get("prompt")


def behind_prompt(
    prompt: Float[Array, "*B P D"] | None,
    x: Float[Array, "B U D"],
    index: Int[Array, "*B"] | int,
    *,
    first: bool,
) -> tuple[Float[Array, "B PU D"], Int[Array, "*B"]]:
    """What a decoder reads at a call, its own virtual tokens before it, and where that stands.

    Args:
      first: the call that comes before any other, after which the cache has the virtual tokens.
    """
    index = jnp.asarray(index)
    if prompt is None:
        return x, index
    if not first:
        return x, index + prompt.shape[-2]
    rows = jnp.broadcast_to(prompt.astype(x.dtype), (len(x), *prompt.shape[-2:]))
    return jnp.concatenate([rows, x], axis=1), index


def shift_right(targets: Int[Array, "B U"], start: tuple[int, ...]) -> Int[Array, "B W"]:
    """Decoder inputs of `targets`: the start tokens, then every target but the last."""
    before = jnp.broadcast_to(jnp.array(start, targets.dtype), (len(targets), len(start)))
    # Padding behind a target is read too: attention is causal, so no logit before it changes.
    return jnp.concatenate([before, targets[:, :-1]], axis=1)
