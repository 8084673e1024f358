"""Decoder-only models in Linen: GPT-2, Llama 2 and 3, Mistral, Qwen 2 and 3 by their configs.

As for T5, embeddings come in and not tokens. Positions are counted over what the mask shows, so
padding may stand anywhere and changes nothing (but see `count_padding`). A prefix in every
attention counts as positions, as the same virtual tokens in the input would.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.causal.config import CausalConfig
from prompt_jax.backbones.causal.names import sockets
from prompt_jax.backbones.causal.rope import rotate, rotations
from prompt_jax.backbones.layers import (
    Dense,
    LayerNorm,
    RMSNorm,
    attend,
    by_heads,
    look_up,
    mask_bias,
    word_logits,
)
from prompt_jax.backbones.sockets import openness, prefix_seen, socket, with_rows
from prompt_jax.backbones.stack import (
    MLP,
    LayerCache,
    add,
    dropout,
    empty_cache,
    kept,
    stack,
    swap,
    written,
)
from prompt_jax.sharding import constrain


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
        if c.qk_norm:
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
        each = c.num_heads // c.num_kv_heads
        prefix = socket(self, "prefix")
        opened = openness(x, prefix)
        if each > 1:
            key, value = (jnp.repeat(x, each, axis=-2) for x in (key, value))
            if prefix is not None:
                heads = {n: jnp.repeat(prefix[n], each, axis=-2) for n in ("key", "value")}
                prefix = {**prefix, **heads}
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
            x = with_rows(x, socket(self, "prompt"))
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
        each = (cache, jnp.array(windows) if c.full_layers else None)
        shared, fields = (biases, turn, index), {"continued": continued}
        x, added = stack(self, Block, c.num_layers, x, *shared, each=each, fields=fields)
        cache = None if cache is None else written(cache, added, index)
        return norm(c, "final_norm")(x), cache


class Causal(nn.Module):
    """The whole model."""

    config: CausalConfig

    def setup(self):
        c = self.config
        table = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        self.embedding = self.param("embedding", table, (c.vocab_size, c.d_model))
        if c.rope is None:
            rows = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("pos", "embed"))
            self.positions = self.param("positions", rows, (c.max_positions, c.d_model))
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
        tuned = self.variables.get("tuned", {}).get("decoder", {})
        prefix = prefix_seen(tuned, "attention", len(mask))
        places = jnp.arange(mask.shape[1])
        own = jnp.asarray(first) + jnp.arange(x.shape[1])
        counted = jnp.ones_like(mask) if c.count_padding else mask
        positions = jnp.cumsum(jnp.concatenate([prefix, counted], axis=1), axis=1)
        positions = jnp.maximum(positions - 1, 0)
        seen = places[None, :] <= own[:, None]
        if c.bidirectional_input:
            seen = seen | ((places < inputs)[None, :] & (own < inputs)[:, None])
        visible = seen[None] & mask[:, None, :]
        ours = positions[:, prefix.shape[1] + own]
        before = jnp.broadcast_to(prefix[:, None], (*visible.shape[:2], prefix.shape[1]))
        visible = jnp.concatenate([before, visible], axis=2)
        views = [visible]
        if c.sliding_window is not None:
            behind = ours[:, :, None] - positions[:, None, :]
            near = visible & (behind < c.sliding_window)
            views = [visible, near] if c.full_layers else [near]
        if c.rope is None:
            x = x + look_up(self, "positions", ours)
        biases = mask_bias(jnp.stack(views))[:, :, None]
        return self.decoder(x, ours, biases, jnp.asarray(first), cache, continued)

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
        whole = jnp.concatenate([mask, jnp.ones(read.shape, bool)], axis=1)
        states, _ = self._states(x, whole, inputs, 0)
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
        whole = jnp.concatenate([mask, jnp.broadcast_to(filled, (len(mask), room))], axis=1)
        states, added = self._states(self.embed(tokens), whole, inputs, first, cache, True)
        return self._logits(states), added


def _last(states: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B 1 D"]:
    """The state of every row's last real token, wherever padding stands."""
    places = jnp.where(mask, jnp.arange(mask.shape[1])[None, :], 0)
    return jnp.take_along_axis(states, places.max(1)[:, None, None], axis=1)


@functools.partial(jax.jit, static_argnums=0)
def keys_and_values(
    config: CausalConfig, params: Any, tokens: Int[Array, " T"] | Float[Array, "T D"]
) -> dict[str, Any]:
    """What every attention makes of T tokens, or of their embeddings, at the first positions.

    Returns:
      By path, `key` and `value` [L, T, H, K], H heads of keys.
    """
    module = Causal(dataclasses.replace(config, scan=True))
    given = {"params": params}
    embeddings: Any = tokens if tokens.ndim == 2 else module.apply(given, tokens, method="embed")
    mask = jnp.ones((1, len(tokens)), bool)
    _, sown = module.apply(given, embeddings[None], mask, mutable=["intermediates"])
    return kept(sown["intermediates"], sockets(config).attentions)


@functools.partial(jax.jit, static_argnums=0, static_argnames="boxed")
def init_params(config: CausalConfig, key: jax.Array, *, boxed: bool = False) -> Any:
    """Random parameters; under `jax.eval_shape` their shapes, for models of any size.

    Args:
      boxed: keeps the names of every leaf's axes beside it.
    """
    embeddings, mask = jnp.zeros((1, 1, config.d_model), config.dtype), jnp.ones((1, 1), bool)
    params: Any = Causal(config).init(key, embeddings, mask)["params"]
    return params if boxed else nn.unbox(params)
