"""The layers of a T5: attention, feed-forward, and the encoder's and decoder's blocks of them."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_jax.backbones.layers import Bias, ByBucket, Dense, RMSNorm, attend, by_heads
from prompt_jax.backbones.sockets import openness, socket, with_rows
from prompt_jax.backbones.stack import MLP, LayerCache, add, swap, written
from prompt_jax.backbones.t5.config import T5Config
from prompt_jax.sharding import constrain


class Attention(nn.Module):
    """Multi-head attention; projections are apart so that a cache can stand between them."""

    config: T5Config

    def setup(self):
        c = self.config
        heads, axes = (c.d_model, c.num_heads, c.d_kv), ("embed", "heads", "kv")
        # T5 scales no scores: the query initialiser absorbs 1/sqrt(K).
        self.query = Dense(heads, axes, (c.d_model * c.d_kv) ** -0.5, dtype=c.dtype)
        self.key = Dense(heads, axes, c.d_model**-0.5, dtype=c.dtype)
        self.value = Dense(heads, axes, c.d_model**-0.5, dtype=c.dtype)
        self.out = Dense(
            (c.num_heads, c.d_kv, c.d_model),
            ("heads", "kv", "embed"),
            (c.num_heads * c.d_kv) ** -0.5,
            contracted=2,
            dtype=c.dtype,
        )

    def project(self, x: Float[Array, "B S D"]) -> tuple[Array, Array]:
        """Keys and values of `x`, both [B, S, H, K]."""
        x = constrain(x, self.config.mesh, "batch")
        key, value = by_heads(self.config.mesh, self.key(x), self.value(x))
        # Kept only for a caller that asks for them, see `keys_and_values`.
        self.sow("intermediates", "keys", key)
        self.sow("intermediates", "values", value)
        return key, value

    def __call__(
        self, x: Float[Array, "B T D"], key: Array, value: Array, biases: Sequence[Bias]
    ) -> Float[Array, "B T D"]:
        x = constrain(x, self.config.mesh, "batch")
        prefix = socket(self, "prefix")
        opened = openness(x, prefix)
        (query,) = by_heads(self.config.mesh, self.query(x))
        chunk = self.config.attention_chunk
        out = attend(query, key, value, biases, prefix, opened, chunk)
        return self.out(*by_heads(self.config.mesh, out))


class RelativeBias(nn.Module):
    """A learned number for every head and bucket of distance."""

    config: T5Config

    @nn.compact
    def __call__(self, buckets: Int[Array, "*B T S"]) -> Bias:
        c = self.config
        init = nn.initializers.normal(c.d_model**-0.5)
        axes = ("relative_buckets", "heads")
        shape = (c.relative_attention_num_buckets, c.num_heads)
        table = self.param("embedding", nn.with_logical_partitioning(init, axes), shape)
        bias = ByBucket(table.astype(jnp.float32), buckets)
        # Once for all layers, unless it would have rows for more queries than are answered at once.
        queries = buckets.shape[-2]
        return bias if queries > (c.attention_chunk or queries) else bias.rows()


class EncoderBlock(nn.Module):
    """Self-attention and MLP, each behind a norm and beside a residual."""

    config: T5Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], biases: Sequence[Bias], buckets: Array
    ) -> tuple[Float[Array, "B S D"], None]:
        c = self.config
        if c.bias_per_layer:
            biases = (*biases, RelativeBias(c, name="relative_bias")(buckets))
        x = with_rows(x, socket(self, "prompt"))
        attention = Attention(c, name="attention")
        normed = norm(c, "attention_norm")(x)
        out = attention(normed, *attention.project(normed), biases)
        x = add(self, "attention", x, normed, out)
        normed = norm(c, "mlp_norm")(x)
        return add(self, "mlp", x, normed, MLP(c, name="mlp")(normed)), None


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention and MLP; gives what it would add to its cache."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B U D"],
        biases: Sequence[Bias],
        buckets: Array,
        index: Int[Array, ""],
        encoded: Float[Array, "B S D"] | None,
        cross_bias: Array,
        cache: LayerCache | None,
    ) -> tuple[Float[Array, "B U D"], LayerCache | None]:
        c = self.config
        if c.bias_per_layer:
            biases = (*biases, RelativeBias(c, name="relative_bias")(buckets))
        attention = Attention(c, name="attention")
        normed = norm(c, "attention_norm")(x)
        key, value = attention.project(normed)
        added = None
        if cache is not None:
            added = LayerCache(swap(key), swap(value))
            key, value = map(swap, written(cache, added, index)[:2])
        x = add(self, "attention", x, normed, attention(normed, key, value, biases))

        cross = Attention(c, name="cross_attention")
        normed = norm(c, "cross_attention_norm")(x)
        if cache is None or cache.cross_key is None:
            cross_key, cross_value = cross.project(encoded)
            if added is not None:
                added = LayerCache(added.key, added.value, swap(cross_key), swap(cross_value))
        else:
            cross_key, cross_value = swap(cache.cross_key), swap(cache.cross_value)
        out = cross(normed, cross_key, cross_value, [cross_bias])
        x = add(self, "cross_attention", x, normed, out)
        normed = norm(c, "mlp_norm")(x)
        return add(self, "mlp", x, normed, MLP(c, name="mlp")(normed)), added


def norm(config: T5Config, name: str) -> RMSNorm:
    """The norm before a sublayer or behind a stack."""
    return RMSNorm(config.d_model, config.layer_norm_epsilon, config.dtype, name=name)
