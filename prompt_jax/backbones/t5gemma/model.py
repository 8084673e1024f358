"""T5Gemma in Linen: an encoder and a decoder of the blocks of Gemma 2 (Zhang et al. 2025), or 3.

Embeddings come in as the table has them, as for T5, and both stacks scale what they read by
sqrt(D). Those of a T5Gemma 2 come in scaled, as for Gemma.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_jax.backbones.causal import Stack
from prompt_jax.backbones.layers import Dense, parameter, soft_capped, word_logits
from prompt_jax.backbones.t5gemma.config import T5GemmaConfig
from prompt_jax.backbones.two_stacks import TwoStacks


class T5Gemma(TwoStacks):
    """The whole model; `embed` and `__call__` are what the rest of the library uses."""

    config: T5GemmaConfig

    def setup(self):
        c, init = self.config, nn.initializers.normal(0.02)
        for name, stack in {"embedding": c, self.target_table: c.decoder}.items():
            words = (c.vocab_size, stack.d_model)
            setattr(self, name, parameter(self, name, init, ("vocab", "embed"), words))
        self.encoder = Stack(c)
        self.decoder = Stack(c.decoder_stack)
        if not c.tie_embeddings:
            width = c.decoder.d_model
            head = ((width, c.vocab_size), ("embed", "vocab"), width**-0.5)
            self.head = Dense(*head, dtype=c.dtype)

    def enter(
        self, stack: str, x: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """What a stack reads: its blocks turn positions, and nothing is added here."""
        # Rounded to the type of the states, as the model was trained.
        x = x.astype(self.config.dtype)
        scaled = self.config.embedding_scale != 1
        return x if scaled else x * jnp.asarray(x.shape[-1] ** 0.5, x.dtype)

    @property
    def target_table(self) -> str:
        """The decoder's table."""
        return "embedding" if self.config.shared_table else "decoder_embedding"

    def target_rows(self, tokens: Int[Array, "B U"]) -> Float[Array, "B U D"]:
        """Rows of the decoder's table."""
        return self.embed(tokens, self.target_table)

    def logits(self, states: Float[Array, "B U D"]) -> Float[Array, "B U V"]:
        """Logits of the next token after every state of the decoder, float32."""
        c = self.config
        head = None if c.tie_embeddings else self.head
        return soft_capped(word_logits(self, states, head, self.target_table), c.logit_cap)
