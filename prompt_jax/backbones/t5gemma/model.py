"""T5Gemma in Linen: an encoder and a decoder of Gemma 2's blocks (Zhang et al. 2025).

Embeddings come in as the table has them, as for T5; both stacks scale what they read by sqrt(D).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.blocks import key_bias, prefix_length, prefix_of
from prompt_jax.backbones.cache import LayerCache
from prompt_jax.backbones.causal import Cross, Stack, StackConfig, both_ways, layer_biases, sight
from prompt_jax.backbones.encoder_decoder import EncoderDecoder, behind_prompt
from prompt_jax.backbones.layers import Dense, look_up, parameter, soft_capped, word_logits
from prompt_jax.backbones.t5gemma.config import T5GemmaConfig
from prompt_jax.trees import Tuned


class T5Gemma(EncoderDecoder):
    """The whole model; `embed` and `__call__` are what the rest of the library uses."""

    config: T5GemmaConfig

    def setup(self):
        c, init = self.config, nn.initializers.normal(0.02)
        for name, stack in (("embedding", c), ("decoder_embedding", c.decoder)):
            words = (c.vocab_size, stack.d_model)
            setattr(self, name, parameter(self, name, init, ("vocab", "embed"), words))
        self.encoder = Stack(c)
        self.decoder = Stack(c.decoder_stack)
        if not c.tie_embeddings:
            width = c.decoder.d_model
            head = ((width, c.vocab_size), ("embed", "vocab"), width**-0.5)
            self.head = Dense(*head, dtype=c.dtype)

    def encode(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The encoder's states; a prompt, if any, is already in `embeddings` and `mask`."""
        prefix = prefix_of(self._tuned("encoder"), "attention")
        views = both_ways(self.config, prefix, mask)
        return self.encoder(_scaled(self.config, embeddings), *views)[0]

    def decode(
        self,
        tokens: Int[Array, "B U"],
        encoded: Float[Array, "B S E"] | None,
        mask: Bool[Array, "B S"],
        cache: LayerCache | None = None,
        index: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B U V"], LayerCache | None]:
        """Logits of the next token after every decoder token, see `EncoderDecoder`."""
        c, d, tuned = self.config, self.config.decoder_stack, self._tuned("decoder")
        x = look_up(self, "decoder_embedding", tokens)
        first = encoded is not None
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
        x, cache = self.decoder(_scaled(d, x), positions, *shared)
        # Nothing is asked of what stands behind a prompt.
        head = None if c.tie_embeddings else self.head
        logits = word_logits(self, x[:, -tokens.shape[1] :], head, "decoder_embedding")
        return soft_capped(logits, c.logit_cap), cache

    def _tuned(self, stack: str) -> Tuned:
        return self.variables.get("tuned", {}).get(stack, {})

    @property
    def kept(self) -> tuple[StackConfig, int, int]:
        """The config of the decoder's heads, how many of keys there are, and of layers."""
        d = self.config.decoder_stack
        return d, d.num_kv_heads, d.num_layers


def _scaled(config: StackConfig, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """What a stack reads, for embeddings as the table has them."""
    # Rounded to the type of the states, as the model was trained.
    x = x.astype(config.dtype)
    return x * jnp.asarray(config.d_model**0.5, x.dtype)
