"""ModernBERT in Linen: the blocks of a decoder, read in both directions (Warner et al. 2024).

Embeddings come in as the table has them: the first norm belongs to a prompt's rows as well.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from prompt_jax.backbones.blocks import prefix_of
from prompt_jax.backbones.causal import Stack, both_ways, norm
from prompt_jax.backbones.encoder import EncoderOnly, first_state
from prompt_jax.backbones.layers import ACTIVATIONS, Dense, parameter
from prompt_jax.backbones.modernbert.config import ModernBertConfig


class ModernBert(EncoderOnly):
    """The whole model: states of a text, and what stands on top of them in the checkpoint."""

    config: ModernBertConfig

    def setup(self):
        c = self.config
        self.embedding = self.table("embedding", c.vocab_size, "vocab")
        self.embedding_norm = norm(c)
        self.encoder = Stack(c)
        if c.pooler:
            square = ((c.d_model, c.d_model), ("embed", "embed_out"), 0.02)
            self.pooler = Dense(*square, use_bias=c.pooler_bias, dtype=c.dtype)
            self.pooler_norm = norm(c)
        if c.word_head:
            zeros, shape = nn.initializers.zeros_init(), (c.vocab_size,)
            self.word_bias = parameter(self, "word_bias", zeros, ("vocab",), shape)

    def encode(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The states of the last layer; a prompt, if any, is already in `embeddings` and `mask`."""
        c = self.config
        prefix = prefix_of(self.variables.get("tuned", {}).get("encoder", {}), "attention")
        x = self.embedding_norm(embeddings.astype(c.dtype))
        return self.encoder(x, *both_ways(c, prefix, mask))[0]

    def features(self, states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What every head reads, that over words too: states through the pooler if any."""
        if not self.config.pooler:
            return states
        return self.pooler_norm(ACTIVATIONS[self.config.pooler_activation](self.pooler(states)))

    word_states = features

    def pool(self, states: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
        """What stands for a text before a head: its first real token, or the mean of all."""
        if self.config.pooling == "cls":
            return self.features(first_state(states, mask))[:, 0]
        real = jnp.broadcast_to(mask[..., None], states.shape)
        # At least one, as a text without tokens has no mean.
        count = jnp.maximum(real.sum(1, keepdims=True), 1)
        mean = jnp.where(real, states, 0).sum(1, keepdims=True) / count
        return self.features(mean.astype(states.dtype))[:, 0]
