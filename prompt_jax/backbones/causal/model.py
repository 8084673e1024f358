"""Decoder-only models in Linen: GPT-2, Llama 2 and 3, Mistral, Qwen 2 and 3 by their configs.

As for T5, embeddings come in and not tokens. Positions are counted over what the mask shows, so
padding may stand anywhere and changes nothing (but see `count_padding`). A prefix in every
attention counts as positions, as the same virtual tokens in the input would.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.blocks import (
    MLP,
    add,
    attend,
    by_heads,
    dropout,
    prefix_of,
    stack,
    virtual_rows,
)
from prompt_jax.backbones.cache import LayerCache, empty_cache, swap, written
from prompt_jax.backbones.causal.config import CausalConfig
from prompt_jax.backbones.causal.rope import rotate, rotations
from prompt_jax.backbones.layers import (
    Dense,
    LayerNorm,
    RMSNorm,
    constrain,
    look_up,
    mask_bias,
    parameter,
    socket,
    word_logits,
)
from prompt_jax.backbones.sockets import openness, prefix_seen


class Attention(nn.Module):
    """Self-attention whose keys and values may be those of a cache."""

    config: CausalConfig

    def setup(self):
        c = self.config
        std = c.d_model**-0.5
        if c.fused:
            shape = (c.d_model, 3, c.num_heads, c.d_kv)
            axes = ("embed", "qkv", "heads", "kv")
            options = {"use_bias": c.qkv_bias, "dtype": c.dtype, "as_matrix": c.mesh is None}
            self.qkv = Dense(shape, axes, std, **options)
        else:
            shape, few = (c.d_model, c.num_heads, c.d_kv), (c.d_model, c.num_kv_heads, c.d_kv)
            axes, options = ("embed", "heads", "kv"), {"use_bias": c.qkv_bias, "dtype": c.dtype}
            self.query = Dense(shape, axes, std, **options)
            self.key = Dense(few, ("embed", "kv_heads", "kv"), std, **options)
            self.value = Dense(few, ("embed", "kv_heads", "kv"), std, **options)
        if c.qk_norm:
            self.query_norm = RMSNorm(c.d_kv, c.layer_norm_epsilon, c.dtype, axis="kv")
            self.key_norm = RMSNorm(c.d_kv, c.layer_norm_epsilon, c.dtype, axis="kv")
        self.out = Dense(
            (c.num_heads, c.d_kv, c.d_model),
            ("heads", "kv", "embed"),
            (c.num_heads * c.d_kv) ** -0.5,
            contracted=2,
            use_bias=c.out_bias,
            dtype=c.dtype,
        )

    def project(
        self, x: Float[Array, "B T D"], turn: Float[Array, "2 B T K"] | None
    ) -> tuple[Array, Array, Array]:
        """Queries [B, T, H, K], keys and values of `x`, turned to their positions."""
        c = self.config
        x = constrain(x, c.mesh, "batch")
        if c.fused:
            query, key, value = (part[:, :, 0] for part in jnp.split(self.qkv(x), 3, axis=2))
        else:
            query, key, value = self.query(x), self.key(x), self.value(x)
        (query,) = by_heads(c.mesh, query)
        key, value = by_heads(c.mesh, key, value, axis="kv_heads")
        if c.qk_norm:  # Before they are turned, which keeps their norms.
            query, key = self.query_norm(query), self.key_norm(key)
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        # Kept only for a caller that asks for them, see `keys_and_values`.
        self.sow("intermediates", "keys", key)
        self.sow("intermediates", "values", value)
        return query, key, value

    def __call__(
        self, x: Float[Array, "B T D"], query: Array, key: Array, value: Array, bias: Array
    ) -> Float[Array, "B T D"]:
        c = self.config
        group = c.num_heads // c.num_kv_heads
        prefix = socket(self, "prefix")
        opened = None if prefix is None else openness(x, prefix)
        if group > 1:  # Heads of queries that share a head of keys.
            key, value = (jnp.repeat(x, group, axis=-2) for x in (key, value))
            if prefix is not None:
                heads = {n: jnp.repeat(prefix[n], group, axis=-2) for n in ("key", "value")}
                prefix = {**prefix, **heads}
        # Before the product: fewer numbers than scores, and none of them overflows.
        query = query * c.d_kv**-0.5
        out = attend(query, key, value, [bias], prefix, opened, c.attention_chunk)
        return self.out(*by_heads(c.mesh, out))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual.

    Layers that see differently far have a `window`: which of the W biases is theirs.
    """

    config: CausalConfig
    continued: bool = False
    """The states are those behind a cache: a layer's own virtual tokens are already in it."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        biases: Float[Array, "W B 1 T PS"],
        turn: Float[Array, "2 B T K"] | None,
        index: Int[Array, ""],
        cache: LayerCache | None,
        window: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        c = self.config
        bias = biases[0 if window is None else window]
        if not self.continued:
            x = virtual_rows(self, x)
        attention = Attention(c, name="attention")
        normed = norm(c, "attention_norm")(x)
        query, key, value = attention.project(normed, turn)
        added = None
        if cache is not None:
            added = LayerCache(swap(key), swap(value))
            key, value = map(swap, written(cache, added, index)[:2])
        x = add(self, "attention", x, normed, attention(normed, query, key, value, bias))
        normed = norm(c, "mlp_norm")(x)
        return add(self, "mlp", x, normed, MLP(c, c.mlp_bias, name="mlp")(normed)), added


def norm(config: CausalConfig, name: str) -> nn.Module:
    """The norm before a sublayer or behind the stack."""
    kind = RMSNorm if config.norm == "rms" else LayerNorm
    return kind(config.d_model, config.layer_norm_epsilon, config.dtype, name=name)


class Decoder(nn.Module):
    """[B, T, D] embeddings to [B, T, D] states."""

    config: CausalConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        biases: Float[Array, "W B 1 T PS"],
        index: Int[Array, ""],
        cache: LayerCache | None,
        continued: bool,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        c = self.config
        turn = None if c.rope is None else rotations(c.rope, positions, c.d_kv)
        x = dropout(self, x.astype(c.dtype))
        windows = [int(i not in c.full_layers) for i in range(c.num_layers)]
        sliced = (cache, jnp.array(windows) if c.full_layers else None)
        shared, fields = (biases, turn, index), {"continued": continued}
        x, added = stack(self, Block, c.num_layers, x, *shared, sliced=sliced, fields=fields)
        cache = None if cache is None else written(cache, added, index)
        return norm(c, "final_norm")(x), cache


class Causal(nn.Module):
    """The whole model."""

    config: CausalConfig

    def setup(self):
        c = self.config
        init, words = nn.initializers.normal(0.02), (c.vocab_size, c.d_model)
        self.embedding = parameter(self, "embedding", init, ("vocab", "embed"), words)
        if c.rope is None:
            places = (c.max_positions, c.d_model)
            self.positions = parameter(self, "positions", init, ("pos", "embed"), places)
        self.decoder = Decoder(c)
        if not c.tie_embeddings:
            head = ((c.d_model, c.vocab_size), ("embed", "vocab"), c.d_model**-0.5)
            self.head = Dense(*head, dtype=c.dtype)

    def embed(self, tokens: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        """Rows of the embedding table, without positions."""
        return look_up(self, "embedding", tokens)

    def _states(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B S"],
        inputs: int,
        first: Int[Array, ""] | int,
        cache: LayerCache | None = None,
        continued: bool = False,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        """States of `x`, which stands at places `first` and later of S.

        Args:
          mask: of all S places that may be seen, those of the cache and of `x`.
          inputs: how many places from the front are input, not target.
        """
        c = self.config
        prefix = prefix_of(self.variables.get("tuned", {}).get("decoder", {}), "attention")
        virtual = prefix_seen(prefix, len(mask)) if prefix else jnp.zeros((len(mask), 0), bool)
        places = jnp.arange(mask.shape[1])
        queries = jnp.asarray(first) + jnp.arange(x.shape[1])
        # Counted over what is real, so that a row padded on the left is the row without padding.
        counted = jnp.ones_like(mask) if c.count_padding else mask
        positions = jnp.cumsum(jnp.concatenate([virtual, counted], axis=1), axis=1)
        # Padding before the first token counts to -1, which would be the last row of a table.
        positions = jnp.maximum(positions - 1, 0)
        seen = places[None, :] <= queries[:, None]
        if c.bidirectional_input:
            seen = seen | ((places < inputs)[None, :] & (queries < inputs)[:, None])
        visible = seen[None] & mask[:, None, :]
        query_positions = positions[:, virtual.shape[1] + queries]
        # A prefix stands before all of a text, and so every query sees it.
        before = jnp.broadcast_to(virtual[:, None], (*visible.shape[:2], virtual.shape[1]))
        visible = jnp.concatenate([before, visible], axis=2)
        views = [visible]
        if c.sliding_window is not None:
            behind = query_positions[:, :, None] - positions[:, None, :]
            near = visible & (behind < c.sliding_window)
            views = [visible, near] if c.full_layers else [near]
        if c.rope is None:
            x = x + look_up(self, "positions", query_positions)
        # Once for all layers; each picks its view by number, as a scan cannot branch by layer.
        biases = mask_bias(jnp.stack(views))[:, :, None]
        return self.decoder(x, query_positions, biases, jnp.asarray(first), cache, continued)

    def _logits(self, states: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        c = self.config
        return word_logits(self, states, None if c.tie_embeddings else self.head)

    def encode(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The states of every position, for a head that classifies."""
        return self._states(embeddings, mask, mask.shape[1], 0)[0]

    def pool(self, states: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
        """What stands for a text before a head: its last real token."""
        return _last(states, mask)[:, 0]

    def __call__(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S V"]:
        """Logits of the token behind every position, float32."""
        return self._logits(self.encode(embeddings, mask))

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
        inputs, read = mask.shape[1], targets[:, :-1]
        x = jnp.concatenate([embeddings, self.embed(read).astype(embeddings.dtype)], axis=1)
        visible = jnp.concatenate([mask, jnp.ones(read.shape, bool)], axis=1)
        states, _ = self._states(x, visible, inputs, 0)
        last = _last(states[:, :inputs], mask)
        return self._logits(jnp.concatenate([last, states[:, inputs:]], axis=1))

    def prefill(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"], length: int
    ) -> tuple[Float[Array, "B V"], LayerCache | None]:
        """Logits of the first target token, and the cache that `decode` goes on with.

        Args:
          length: target tokens that the cache has room for.
        """
        c, (batch, inputs) = self.config, mask.shape
        cache = empty_cache(c, c.num_kv_heads, c.num_layers, batch, inputs + length)
        room = jnp.pad(mask, ((0, 0), (0, length)))
        states, cache = self._states(embeddings, room, inputs, 0, cache)
        return self._logits(_last(states, mask))[:, 0], cache

    def decode(
        self,
        tokens: Int[Array, "B U"],
        encoded: None,
        mask: Bool[Array, "B S"],
        cache: LayerCache,
        index: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B U V"], LayerCache | None]:
        """Logits of the token behind each of `tokens`, which are targets `index` and on, from 1.

        Args:
          mask: of the input, as `prefill` had it.
        """
        inputs = mask.shape[1]
        first = inputs + jnp.asarray(index) - 1
        room = cache.key.shape[3] - inputs
        filled = jnp.arange(room) < jnp.asarray(index) - 1 + tokens.shape[1]
        visible = jnp.concatenate([mask, jnp.broadcast_to(filled, (len(mask), room))], axis=1)
        states, added = self._states(self.embed(tokens), visible, inputs, first, cache, True)
        return self._logits(states), added


def _last(states: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B 1 D"]:
    """The state of every row's last real token, wherever padding stands."""
    # The largest place and not the count of tokens, as padding may stand before them.
    places = jnp.where(mask, jnp.arange(mask.shape[1])[None, :], 0)
    return jnp.take_along_axis(states, places.max(1)[:, None, None], axis=1)
