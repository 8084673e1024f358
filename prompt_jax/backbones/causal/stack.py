"""The blocks of a decoder, of an encoder with rotary positions, and of one that reads another.

A layer that sees less far than others, or whose positions turn at another rate or not at all, picks
what is its own by number: a scan over layers cannot branch, but it can look up.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.attention import Fresh, answer_of, attend
from prompt_jax.backbones.blocks import MLP, add, by_heads, dropout, stack, virtual_rows
from prompt_jax.backbones.cache import LayerCache, swap, written
from prompt_jax.backbones.causal.config import StackConfig
from prompt_jax.backbones.causal.rope import rotate, rotations
from prompt_jax.backbones.layers import (
    Causal,
    Dense,
    LayerNorm,
    RMSNorm,
    constrain,
    socket,
)
from prompt_jax.backbones.sockets import openness


class Cross(NamedTuple):
    """What every layer of a stack reads of another one."""

    encoded: Float[Array, "B S E"] | None
    """None where the cache has their keys and values."""
    bias: Float[Array, "B 1 1 PS"] | None = None
    """None where they are merged, see `StackConfig`: then the biases of the stack cover them."""


class View(NamedTuple):
    """What tells a layer from others: which of the biases and of the turns it reads."""

    bias: Int[Array, "*L"]
    turn: Int[Array, "*L"]
    first: Bool[Array, "*L"] | None
    """Whether it is the first one, where that has no norm before its attention."""


class Attention(nn.Module):
    """Attention whose keys and values may be those of a cache, or of other states."""

    config: StackConfig
    width: int
    """D of what keys and values are made of."""

    def setup(self):
        c = self.config
        std, always = c.d_model**-0.5, {"dtype": c.dtype, "scanned": c.scan}
        if c.fused:
            names, sizes = zip(*c.fused_axes, strict=True)
            shape, axes = (c.d_model, *sizes), ("embed", *names)
            # A mesh splits heads, and one axis of three times the heads could not be split so.
            options = {"use_bias": c.qkv_bias, "as_matrix": c.mesh is None, **always}
            self.qkv = Dense(shape, axes, std, **options)
        else:
            shape, few = (c.d_model, c.num_heads, c.d_kv), (self.width, c.num_kv_heads, c.d_kv)
            axes, options = ("embed", "heads", "kv"), {"use_bias": c.qkv_bias, **always}
            self.query = Dense(shape, axes, std, **options)
            self.key = Dense(few, ("embed", "kv_heads", "kv"), self.width**-0.5, **options)
            self.value = Dense(few, ("embed", "kv_heads", "kv"), self.width**-0.5, **options)
        if c.qk_norm == "heads":
            self.query_norm, self.key_norm = _rms(c, c.d_kv, "kv"), _rms(c, c.d_kv, "kv")
        elif c.qk_norm == "whole":
            self.query_norm = _rms(c, c.num_heads * c.d_kv, "heads")
            self.key_norm = _rms(c, c.num_kv_heads * c.d_kv, "kv_heads")
        self.out = Dense(
            (c.num_heads, c.d_kv, c.d_model),
            ("heads", "kv", "embed"),
            (c.num_heads * c.d_kv) ** -0.5,
            contracted=2,
            use_bias=c.out_bias,
            **always,
        )

    def project(
        self, x: Float[Array, "B T D"], turn: Float[Array, "2 B T K"] | None
    ) -> tuple[Array, Array, Array]:
        """Queries [B, T, H, K], keys and values of `x`, turned to their positions."""
        c = self.config
        x = constrain(x, c.mesh, "batch")
        if c.fused:
            query, key, value = _roles(c, self.qkv(x))
        else:
            query, key, value = self.query(x), self.key(x), self.value(x)
        (query,) = by_heads(c.mesh, query)
        key, value = by_heads(c.mesh, key, value, axis="kv_heads")
        if c.qk_norm:  # Before they are turned, which keeps their norms.
            query, key = self._normed(self.query_norm, query), self._normed(self.key_norm, key)
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        # Kept as they were turned, as a cache and a prefix hold them: a prefix is not turned again.
        return query, *self._kept(key, value)

    def _normed(self, qk_norm: RMSNorm, x: Float[Array, "B T H K"]) -> Float[Array, "B T H K"]:
        if self.config.qk_norm == "heads":
            return qk_norm(x)
        return qk_norm(x.reshape(*x.shape[:2], -1)).reshape(x.shape)

    def queries(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H K"]:
        """Queries to the keys of other states, which have no positions beside `x`."""
        (query,) = by_heads(self.config.mesh, self.query(constrain(x, self.config.mesh, "batch")))
        return query

    def keys(self, encoded: Float[Array, "B S E"]) -> tuple[Array, Array]:
        """Keys and values of other states, both [B, S, H, K]."""
        mesh = self.config.mesh
        encoded = constrain(encoded, mesh, "batch")
        key, value = by_heads(mesh, self.key(encoded), self.value(encoded), axis="kv_heads")
        key = self._normed(self.key_norm, key) if self.config.qk_norm else key
        return self._kept(key, value)

    def _kept(self, key: Array, value: Array) -> tuple[Array, Array]:
        # Kept only for a caller that asks for them, see `keys_and_values`.
        self.sow("intermediates", "keys", key)
        self.sow("intermediates", "values", value)
        return key, value

    def __call__(
        self,
        x: Float[Array, "B T D"],
        query: Array,
        key: Array,
        value: Array,
        bias: Array | Causal,
        fresh: Fresh | None = None,
    ) -> Float[Array, "B T D"]:
        c = self.config
        prefix = socket(self, "prefix")
        opened = None if prefix is None else openness(x, prefix)
        # Before the product: fewer numbers than scores, and none of them overflows.
        query = query * (c.d_kv**-0.5 if c.query_scale is None else c.query_scale)
        way = {"chunk": c.attention_chunk, "cap": c.attention_cap, "kernel": c.kernel}
        out = attend(query, key, value, [bias], prefix, opened, fresh=fresh, **way)
        (heads,) = by_heads(c.mesh, out)
        return answer_of(self, query, heads, self._rows, self.out)

    def _rows(self, x: Float[Array, "#B P D"]) -> tuple[Array, Array]:
        """Keys and values of rows that stand at no position."""
        if self.config.fused:
            _, key, value = _roles(self.config, self.qkv(x))
        else:
            key, value = self.key(x), self.value(x)
        return self._normed(self.key_norm, key) if self.config.qk_norm else key, value


def _roles(config: StackConfig, qkv: Float[Array, "B T *heads"]) -> list[Array]:
    """Queries, keys and values, [B, T, H, K], of what a fused kernel gives."""
    axes = [name for name, _ in config.fused_axes]
    if "qkv" not in axes:
        heads, few = config.num_heads, config.num_kv_heads
        return jnp.split(qkv, [heads, heads + few], axis=2)
    axis = 2 + axes.index("qkv")
    return [part.squeeze(axis) for part in jnp.split(qkv, 3, axis=axis)]


class Block(nn.Module):
    """Attention, cross-attention if it has one, and MLP, each with its norms and a residual."""

    config: StackConfig
    continued: bool = False
    """The states are those behind a cache: a layer's own virtual tokens are already in it."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        biases: Float[Array, "W B 1 T PS"] | Causal,
        turns: Float[Array, "R 2 B T K"] | None,
        index: Int[Array, "*B"],
        cross: Cross | None,
        cache: LayerCache | None,
        view: View,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        c = self.config
        # Those of all kinds of layers come in, as a scan gives all layers the same arguments.
        bias = biases if isinstance(biases, Causal) else _of_layer(biases, view.bias)
        turn = None if turns is None else _of_layer(turns, view.turn)
        if not self.continued:
            x = virtual_rows(self, x)
        attention = Attention(c, c.d_model, name="attention")
        normed = _entering(self, "attention", x)
        if view.first is not None:  # A scan cannot branch by layer, but it can choose.
            normed = jnp.where(view.first, x, normed)
        query, key, value = attention.project(normed, turn)
        if c.merged_cross and cross is not None and cross.encoded is not None:
            # In front, as an input stands before what a decoder of its own writes behind it.
            # Kept second: what `keys_and_values` reads is the stack's own.
            first = attention.keys(cross.encoded)
            key, value = (jnp.concatenate(x, axis=1) for x in zip(first, (key, value), strict=True))
        added = fresh = None
        if cache is not None:
            added = LayerCache(swap(key), swap(value))
            if self.continued:
                fresh = Fresh(key, value, index)
                key, value = swap(cache.key), swap(cache.value)
            else:
                key, value = map(swap, written(cache, added, index)[:2])
        out = attention(normed, query, key, value, bias, fresh)
        before, x = x, _leaving(self, "attention", x, normed, out)
        if cross is not None and not c.merged_cross:
            x, added = _crossed(self, x, cross, cache, added)
        normed = _entering(self, "mlp", before if c.parallel_residual else x)
        return _leaving(self, "mlp", x, normed, MLP(c, c.mlp_bias, name="mlp")(normed)), added


def _of_layer(views: Float[Array, "W ..."], number: Int[Array, ""]) -> Array:
    """The part of `views` that a layer reads: by its number, where there are several."""
    # Under a scan the number is traced, so that this is a gather and no branch.
    return views[0 if len(views) == 1 else number]


def _crossed(
    block: Block,
    x: Float[Array, "B T D"],
    cross: Cross,
    cache: LayerCache | None,
    added: LayerCache | None,
) -> tuple[Float[Array, "B T D"], LayerCache | None]:
    """`x` behind its cross-attention, and what a cache takes, now with keys of the other states."""
    c = block.config
    assert c.cross_width is not None and cross.bias is not None
    attention = Attention(c, c.cross_width, name="cross_attention")
    normed = _entering(block, "cross_attention", x)
    if cross.encoded is not None:
        key, value = attention.keys(cross.encoded)
        if added is not None:
            added = LayerCache(added.key, added.value, swap(key), swap(value))
    else:  # What the first call put there.
        assert cache and cache.cross_key is not None and cache.cross_value is not None
        key, value = swap(cache.cross_key), swap(cache.cross_value)
    out = attention(normed, attention.queries(normed), key, value, cross.bias)
    return _leaving(block, "cross_attention", x, normed, out), added


def _entering(block: Block, sublayer: str, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """What a sublayer reads."""
    c = block.config
    return norm(c, f"{sublayer}_norm")(x) if "before" in c.norm_places else x


def _leaving(
    block: Block, sublayer: str, x: Array, normed: Array, out: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
    """The residual sum behind a sublayer, see `add`."""
    c = block.config
    out = norm(c, f"{sublayer}_post_norm")(out) if "behind" in c.norm_places else out
    out = out if c.residual_scale == 1 else out * c.residual_scale
    x = add(block, sublayer, x, normed, out)
    return norm(c, f"{sublayer}_norm")(x) if "after" in c.norm_places else x


def norm(config: StackConfig, name: str | None = None) -> nn.Module:
    """A norm of states: at a sublayer, behind the stack or before it."""
    c = config
    if c.norm == "layer":
        return LayerNorm(c.d_model, c.layer_norm_epsilon, c.dtype, c.norm_bias, name=name)
    return _rms(c, c.d_model, "embed", name)


def _rms(config: StackConfig, width: int, axis: str, name: str | None = None) -> RMSNorm:
    options = {"axis": axis, "from_one": config.norm == "rms_from_one", "name": name}
    return RMSNorm(width, config.layer_norm_epsilon, config.dtype, **options)


class Stack(nn.Module):
    """[B, T, D] embeddings to [B, T, D] states."""

    config: StackConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        biases: Float[Array, "W B 1 T PS"] | Causal,
        index: Int[Array, "*B"] | int = 0,
        cross: Cross | None = None,
        cache: LayerCache | None = None,
        continued: bool = False,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        c, turns, index = self.config, None, jnp.asarray(index)
        ropes = list(dict.fromkeys(c.ropes))
        if c.rope is not None:
            # Once for all layers that share a rope.
            turns = jnp.stack([rotations(rope, positions, c.d_kv) for rope in ropes])
        x = dropout(self, x.astype(c.dtype))
        # As `layer_biases` has them: 0 is full, and 1 has a window.
        windows = [int(i not in c.full_layers) for i in range(c.num_layers)]
        first = None if c.first_norm else jnp.arange(c.num_layers) == 0
        turn = [ropes.index(rope) for rope in c.ropes]
        sliced = (cache, View(jnp.array(windows), jnp.array(turn), first))
        shared, fields = (biases, turns, index, cross), {"continued": continued}
        x, added = stack(self, Block, c.num_layers, x, *shared, sliced=sliced, fields=fields)
        # One write for all layers, behind the scan: see `written`.
        cache = None if cache is None else written(cache, added, index)
        return norm(c, "final_norm")(x) if c.final_norm else x, cache
