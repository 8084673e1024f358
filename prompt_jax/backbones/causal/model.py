"""Decoder-only models in Linen: all of `MODEL_TYPES`, by their configs.

As for T5, embeddings come in and not tokens. Positions are counted over what the mask shows, so
padding may stand anywhere and changes nothing (but see `count_padding`). A prefix in every
attention counts as positions, as the same virtual tokens in the input would.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.blocks import places_from, prefix_of
from prompt_jax.backbones.cache import LayerCache, empty_cache, written
from prompt_jax.backbones.causal.config import CausalConfig
from prompt_jax.backbones.causal.masks import causal_biases, layer_biases, sight
from prompt_jax.backbones.causal.stack import Stack
from prompt_jax.backbones.layers import Dense, look_up, parameter, soft_capped, word_logits


class Causal(nn.Module):
    """The whole model."""

    config: CausalConfig

    def setup(self):
        c = self.config
        init, words = nn.initializers.normal(0.02), (c.vocab_size, c.d_model)
        self.embedding = parameter(self, "embedding", init, ("vocab", "embed"), words)
        if c.rope is None:
            places = (c.max_positions + c.position_offset, c.d_model)
            self.positions = parameter(self, "positions", init, ("pos", "embed"), places)
        self.decoder = Stack(c)
        if not c.tie_embeddings:
            head = ((c.d_model, c.vocab_size), ("embed", "vocab"), c.d_model**-0.5)
            self.head = Dense(*head, dtype=c.dtype)

    def embed(self, tokens: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        """Rows of the embedding table as the first layer reads them, but for positions."""
        rows = look_up(self, "embedding", tokens)
        scale = self.config.embedding_scale
        # Rounded to the type of the rows, as Gemma was trained: 55.43 is 55.5 in bfloat16.
        return rows if scale == 1 else rows * jnp.asarray(scale, rows.dtype)

    def _states(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B S"],
        inputs: int,
        first: Int[Array, "*B"] | int,
        cache: LayerCache | None = None,
        continued: bool = False,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        """States of `x`, which stands at places `first` and later of S, in all rows or in each.

        Args:
          mask: of all S places that may be seen, those of the cache and of `x`.
          inputs: how many places from the front are input, not target.
        """
        c = self.config
        x = x if c.input_scale == 1 else x * c.input_scale
        prefix = prefix_of(self.variables.get("tuned", {}).get("decoder", {}), "attention")
        places = jnp.arange(mask.shape[1])
        queries = places_from(first, x.shape[1])
        seen = places[None, None, :] <= queries[:, :, None]
        if c.bidirectional_input:
            seen = seen | ((places < inputs)[None, None, :] & (queries < inputs)[:, :, None])
        counted = jnp.ones_like(mask) if c.count_padding else mask
        positions, visible, behind = sight(prefix, mask, counted, queries, seen)
        if c.rope is None:
            x = x + look_up(self, "positions", positions + c.position_offset)
        # Behind a cache, queries do not begin at the first place.
        apart = continued or c.bidirectional_input
        biases = (layer_biases if apart else causal_biases)(c, visible, behind)
        return self.decoder(x, positions, biases, first, None, cache, continued)

    def words(self, states: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Logits of the token behind each state, float32."""
        c = self.config
        logits = word_logits(self, states, None if c.tie_embeddings else self.head)
        logits = logits if c.logits_scaling == 1 else logits / c.logits_scaling
        return soft_capped(logits, c.logit_cap)

    def encode(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The states of every position, for a head that classifies."""
        return self._states(embeddings, mask, mask.shape[1], 0)[0]

    def features(self, states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What a head over tokens reads."""
        return states

    def pool(self, states: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
        """What stands for a text before a head: its last real token."""
        return _last(states, mask)[:, 0]

    def __call__(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S V"]:
        """Logits of the token behind every position, float32."""
        return self.words(self.encode(embeddings, mask))

    def predict(
        self,
        embeddings: Float[Array, "B S D"],
        mask: Bool[Array, "B S"],
        targets: Int[Array, "B U"],
    ) -> Float[Array, "B U V"]:
        """Logits of every target token, from the input and the targets before it.

        The head is applied to these U states only. Targets are read whole: what stands behind a
        target's end has no part in the logits before it.
        """
        # The last target is predicted and never read.
        inputs, read = mask.shape[1], targets[:, :-1]
        x = jnp.concatenate([embeddings, self.embed(read).astype(embeddings.dtype)], axis=1)
        visible = jnp.concatenate([mask, jnp.ones(read.shape, bool)], axis=1)
        states, _ = self._states(x, visible, inputs, 0)
        # The last real position predicts the first target; padding may stand between the two.
        last = _last(states[:, :inputs], mask)
        return self.words(jnp.concatenate([last, states[:, inputs:]], axis=1))

    def prefill(
        self,
        embeddings: Float[Array, "B T D"],
        mask: Bool[Array, "B S"],
        length: int,
        before: LayerCache | None = None,
    ) -> tuple[Float[Array, "B V"], LayerCache | None]:
        """Logits of the first target token, and the cache that `decode` goes on with.

        Args:
          length: target tokens that the cache has room for.
          before: of the first S - T places, which were read already.
        """
        c, (batch, inputs) = self.config, mask.shape
        cache = empty_cache(c, c.num_kv_heads, c.num_layers, batch, inputs + length)
        # Places that are still empty are hidden, or their zeros would have a share of the softmax.
        room, first = jnp.pad(mask, ((0, 0), (0, length))), inputs - embeddings.shape[1]
        if before is not None:
            cache = written(cache, before, jnp.int32(0))
        states, cache = self._states(embeddings, room, inputs, first, cache, before is not None)
        return self.words(_last(states, mask[:, first:]))[:, 0], cache

    def decode(
        self,
        tokens: Int[Array, "B U"],
        encoded: None,
        mask: Bool[Array, "B S"],
        cache: LayerCache,
        index: Int[Array, "*B"] | int,
    ) -> tuple[Float[Array, "B U V"], LayerCache | None]:
        """Logits of the token behind each of `tokens`, which are targets `index` and on, from 1.

        Rows may stand at targets of their own.

        Args:
          mask: of the input, as `prefill` had it.
        """
        inputs = mask.shape[1]
        # `prefill` predicted the first target, which now takes the first place behind the input.
        first = inputs + jnp.asarray(index) - 1
        room = cache.key.shape[3] - inputs
        # Those of `tokens` too, which are written before they are read.
        behind = jnp.asarray(index) - 1 + tokens.shape[1]
        filled = jnp.arange(room)[None, :] < behind.reshape(-1, 1)
        visible = jnp.concatenate([mask, jnp.broadcast_to(filled, (len(mask), room))], axis=1)
        states, added = self._states(self.embed(tokens), visible, inputs, first, cache, True)
        return self.words(states), added


def _last(states: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B 1 D"]:
    """The state of every row's last real token, wherever padding stands."""
    # The largest place and not the count of tokens, as padding may stand before them.
    places = jnp.where(mask, jnp.arange(mask.shape[1])[None, :], 0)
    return jnp.take_along_axis(states, places.max(1)[:, None, None], axis=1)
