"""An encoder and a decoder that are stacks of the same kind of blocks: T5Gemma and BART."""

import abc
import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.blocks import key_bias, prefix_length, prefix_of
from prompt_jax.backbones.cache import LayerCache
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
        index: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B U V"], LayerCache | None]:
        """Logits of the next token after every decoder token, see `EncoderDecoder`."""
        d, tuned, first = self.config.decoder_stack, self._tuned("decoder"), encoded is not None
        x = self.target_rows(tokens)
        if not first:  # Several start tokens came with the first call, and `index` counts one.
            index = index + len(self.config.start_tokens) - 1
        x, index = behind_prompt(self.decoder_prompt, x, index, first=first)
        room = jnp.arange(x.shape[1] if cache is None else cache.key.shape[3])
        queries = index + jnp.arange(x.shape[1])
        filled = jnp.ones((len(mask), len(room)), bool)
        # Hides the empty places of a cache as well, which are all ahead.
        seen = room[None, :] <= queries[:, None]
        prefix = prefix_of(tuned, "attention")
        positions, visible, behind = sight(prefix, filled, filled, queries, seen)
        biases = layer_biases(d, visible, behind)
        cross = Cross(encoded, key_bias(mask, prefix_length(tuned, "cross_attention")))
        shared = (biases, index, cross, cache, not first)
        x, cache = self.decoder(self.enter("decoder", x, positions), positions, *shared)
        # Nothing is asked of what stands behind a prompt.
        return self.logits(x[:, -tokens.shape[1] :]), cache

    def _tuned(self, stack: str) -> Tuned:
        return self.variables.get("tuned", {}).get(stack, {})

    @property
    def kept(self) -> tuple[StackConfig, int, int]:
        """The config of the decoder's heads, how many of keys there are, and of layers."""
        d = self.config.decoder_stack
        return d, d.num_kv_heads, d.num_layers
