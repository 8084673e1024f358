"""An encoder and a decoder that are stacks of the same kind of blocks: T5Gemma and BART.

A decoder whose attention is merged with that to the encoder (T5Gemma 2) keeps keys of S places of
the input and, behind them, of its own, as a decoder-only model does. Those of the input take no
position, and no window hides them.
"""

import abc
import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.blocks import key_bias, places_from, prefix_length, prefix_of
from prompt_jax.backbones.cache import LayerCache, empty_cache
from prompt_jax.backbones.causal import Cross, StackConfig, both_ways, layer_biases, sight
from prompt_jax.backbones.encoder_decoder import EncoderDecoder, behind_prompt
from prompt_jax.trees import Tuned


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoStacksConfig(StackConfig):
    """The shape of both stacks; the fields of a stack are the encoder's."""

    target_place = "apart"

    decoder: StackConfig = StackConfig(cross_width=StackConfig.d_model)
    """The decoder's shape; how it is run, such as its `dtype`, is what the whole model says."""
    tie_embeddings: bool = True
    """The head is the decoder's embedding table."""
    decoder_start_token_id: int = 2

    @property
    def decoder_stack(self) -> StackConfig:
        """The decoder's shape, run as the model is."""
        names = ("dropout", "remat", "attention_chunk", "scan", "dtype", "mesh")
        return dataclasses.replace(self.decoder, **{name: getattr(self, name) for name in names})


class TwoStacks(EncoderDecoder):
    """The whole model; a family says what enters its stacks and what reads the decoder's states."""

    config: TwoStacksConfig

    @abc.abstractmethod
    def enter(
        self, stack: str, x: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """What the `encoder` or the `decoder` reads, for embeddings and where they stand."""

    @abc.abstractmethod
    def target_rows(self, tokens: Int[Array, "B U"]) -> Float[Array, "B U D"]:
        """The embeddings of target tokens."""

    @abc.abstractmethod
    def logits(self, states: Float[Array, "B U D"]) -> Float[Array, "B U V"]:
        """Logits of the next token after every state of the decoder, float32."""

    def encode(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The encoder's states; a prompt, if any, is already in `embeddings` and `mask`."""
        prefix = prefix_of(self._tuned("encoder"), "attention")
        positions, biases = both_ways(self.config, prefix, mask)
        return self.encoder(self.enter("encoder", embeddings, positions), positions, biases)[0]

    def decode(
        self,
        tokens: Int[Array, "B U"],
        encoded: Float[Array, "B S E"] | None,
        mask: Bool[Array, "B S"],
        cache: LayerCache | None = None,
        index: Int[Array, "*B"] | int = 0,
    ) -> tuple[Float[Array, "B U V"], LayerCache | None]:
        """Logits of the next token after every decoder token, see `EncoderDecoder`."""
        d, first = self.config.decoder_stack, encoded is not None
        x = self.target_rows(tokens)
        if not first:  # Several start tokens came with the first call, and `index` counts one.
            index = index + len(self.config.start_tokens) - 1
        x, index = behind_prompt(self.decoder_prompt, x, index, first=first)
        merged = mask if d.merged_cross else mask[:, :0]
        room = merged.shape[1] + x.shape[1] if cache is None else cache.key.shape[3]
        behind = merged.shape[1] + index
        queries = places_from(behind, x.shape[1])
        positions, biases = self._sight(merged, room, queries)
        bias = key_bias(mask, prefix_length(self._tuned("decoder"), "cross_attention"))
        cross = Cross(encoded, None if d.merged_cross else bias)
        # The first call writes from the front of a cache on, keys of the input before its own.
        shared = (biases, index if first else behind, cross, cache, not first)
        x, cache = self.decoder(self.enter("decoder", x, positions), positions, *shared)
        # Nothing is asked of what stands behind a prompt.
        return self.logits(x[:, -tokens.shape[1] :]), cache

    def _sight(
        self, merged: Bool[Array, "B S"], room: int, queries: Int[Array, "#B T"]
    ) -> tuple[Int[Array, "B T"], Float[Array, "W B 1 T PS"]]:
        """Positions of what the decoder reads, and what its layers read as `biases`.

        Args:
          merged: which places of the input are real, if the decoder has their keys among its own.
          room: keys of both, but for a prefix.
          queries: where the T states stand among them, in all rows or in each.
        """
        inputs, places = merged.shape[1], jnp.arange(room)
        real = jnp.pad(merged, ((0, 0), (0, room - inputs)), constant_values=True)
        counted = jnp.broadcast_to(places >= inputs, real.shape)
        # Hides the empty places of a cache as well, which are all ahead.
        seen = places[None, None, :] <= queries[:, :, None]
        prefix = prefix_of(self._tuned("decoder"), "attention")
        positions, visible, behind = sight(prefix, real, counted, queries, seen)
        # No window hides an input; keys of a prefix stand before it.
        keys = jnp.arange(room - visible.shape[2], room)
        behind = jnp.where(((keys >= 0) & (keys < inputs))[None, None], 0, behind)
        return positions, layer_biases(self.config.decoder_stack, visible, behind)

    def _tuned(self, stack: str) -> Tuned:
        return self.variables.get("tuned", {}).get(stack, {})

    def room(self, mask: Bool[Array, "B S"], places: int) -> LayerCache:
        """An empty cache, see `EncoderDecoder`."""
        d = self.config.decoder_stack
        places += mask.shape[1] if d.merged_cross else 0
        return empty_cache(d, d.num_kv_heads, d.num_layers, len(mask), places)
