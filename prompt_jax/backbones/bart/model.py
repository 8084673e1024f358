"""BART in Linen: two stacks whose norms stand behind the residual sums (Lewis et al. 2020).

Embeddings come in scaled, where the model scales them; positions and the norm before a stack belong
to a prompt's rows as well.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_jax.backbones.bart.config import UNUSED, BartConfig
from prompt_jax.backbones.causal import Stack, norm
from prompt_jax.backbones.layers import Dense, look_up, parameter, word_logits
from prompt_jax.backbones.two_stacks import TwoStacks


class Bart(TwoStacks):
    """The whole model; `embed` and `__call__` are what the rest of the library uses."""

    config: BartConfig

    def setup(self):
        c, init = self.config, nn.initializers.normal(0.02)
        words, places = (c.vocab_size, c.d_model), ((c.max_positions or 0) + UNUSED, c.d_model)
        self.embedding = parameter(self, "embedding", init, ("vocab", "embed"), words)
        self.encoder_positions = parameter(
            self, "encoder_positions", init, ("pos", "embed"), places
        )
        self.decoder_positions = parameter(
            self, "decoder_positions", init, ("pos", "embed"), places
        )
        self.encoder_norm, self.decoder_norm = norm(c), norm(c.decoder_stack)
        self.encoder, self.decoder = Stack(c), Stack(c.decoder_stack)
        if not c.tie_embeddings:
            head = ((c.d_model, c.vocab_size), ("embed", "vocab"), c.d_model**-0.5)
            self.head = Dense(*head, dtype=c.dtype)
        if c.logit_bias:
            zeros, shape = nn.initializers.zeros_init(), (1, c.vocab_size)
            self.logit_shift = parameter(self, "logit_shift", zeros, ("row", "vocab"), shape)

    def enter(
        self, stack: str, x: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """What a stack reads: embeddings with their positions, normed."""
        x = x.astype(self.config.dtype) + look_up(self, f"{stack}_positions", positions + UNUSED)
        return self.encoder_norm(x) if stack == "encoder" else self.decoder_norm(x)

    def target_rows(self, tokens: Int[Array, "B U"]) -> Float[Array, "B U D"]:
        """The embeddings of target tokens: the encoder's."""
        return self.embed(tokens)

    def logits(self, states: Float[Array, "B U D"]) -> Float[Array, "B U V"]:
        """Logits of the next token after every state of the decoder, float32."""
        c = self.config
        logits = word_logits(self, states, None if c.tie_embeddings else self.head)
        if not c.logit_bias:
            return logits
        # Behind the cast to float32, so that the sum is not rounded.
        return logits + jnp.broadcast_to(self.logit_shift.astype(jnp.float32)[None], logits.shape)
