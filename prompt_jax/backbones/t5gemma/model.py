"""T5Gemma in Linen: an encoder and a decoder of Gemma 2's blocks (Zhang et al. 2025).

Embeddings come in as the table has them, as for T5; both stacks scale what they read by sqrt(D).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_jax.backbones.causal import Stack
from prompt_jax.backbones.layers import Dense, look_up, parameter, soft_capped, word_logits
from prompt_jax.backbones.t5gemma.config import T5GemmaConfig
from prompt_jax.backbones.two_stacks import TwoStacks


class T5Gemma(TwoStacks):
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

    def enter(
        self, stack: str, x: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """What a stack reads: its blocks turn positions, and nothing is added here."""
        # Rounded to the type of the states, as the model was trained.
        x = x.astype(self.config.dtype)
        return x * jnp.asarray(x.shape[-1] ** 0.5, x.dtype)

    def target_rows(self, tokens: Int[Array, "B U"]) -> Float[Array, "B U D"]:
        """Rows of the decoder's table."""
        return look_up(self, "decoder_embedding", tokens)

    def logits(self, states: Float[Array, "B U D"]) -> Float[Array, "B U V"]:
        """Logits of the next token after every state of the decoder, float32."""
        head = None if self.config.tie_embeddings else self.head
        return soft_capped(
            word_logits(self, states, head, "decoder_embedding"), self.config.logit_cap
        )
