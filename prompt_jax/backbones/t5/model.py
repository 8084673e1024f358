"""T5 in Linen: 1.0, 1.1, LM-adapted, Flan, mT5, ByT5 and umT5 by config, not by copies.

The encoder reads embeddings, not tokens, because a prompt stands between the two (`embed`, then
`__call__`). Layers are scanned, so their parameters carry L in front and a 24-layer model compiles
as fast as a 2-layer one. Raffel et al. 2020 (arXiv 1910.10683); 1.1 follows Shazeer 2020.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones import relative
from prompt_jax.backbones.attention import answer_of, attend
from prompt_jax.backbones.blocks import (
    MLP,
    add,
    by_heads,
    dropout,
    key_bias,
    places_from,
    prefix_length,
    prefix_of,
    relative_buckets,
    stack,
    virtual_rows,
)
from prompt_jax.backbones.cache import LayerCache, empty_cache, swap, written
from prompt_jax.backbones.encoder_decoder import EncoderDecoder, behind_prompt
from prompt_jax.backbones.layers import (
    Bias,
    ByBucket,
    Dense,
    RMSNorm,
    constrain,
    mask_bias,
    parameter,
    socket,
    word_logits,
)
from prompt_jax.backbones.sockets import openness
from prompt_jax.backbones.t5.config import T5Config


class Attention(nn.Module):
    """Multi-head attention; projections are apart so that a cache can stand between them."""

    config: T5Config

    def setup(self):
        c = self.config
        heads, axes = (c.d_model, c.num_heads, c.d_kv), ("embed", "heads", "kv")
        options = {"dtype": c.dtype, "scanned": c.scan}
        # T5 scales no scores: the query initialiser absorbs 1/sqrt(K).
        self.query = Dense(heads, axes, (c.d_model * c.d_kv) ** -0.5, **options)
        self.key = Dense(heads, axes, c.d_model**-0.5, **options)
        self.value = Dense(heads, axes, c.d_model**-0.5, **options)
        self.out = Dense(
            (c.num_heads, c.d_kv, c.d_model),
            ("heads", "kv", "embed"),
            (c.num_heads * c.d_kv) ** -0.5,
            contracted=2,
            **options,
        )

    def project(self, x: Float[Array, "B S D"]) -> tuple[Array, Array]:
        """Keys and values of `x`, both [B, S, H, K]."""
        # Gathered over positions, by which the residual stream is split: a query sees all keys.
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
        opened = None if prefix is None else openness(x, prefix)
        (query,) = by_heads(self.config.mesh, self.query(x))
        way = {
            "chunk": self.config.attention_chunk,
            "kernel": self.config.attention,
            "mesh": self.config.mesh,
        }
        out = attend(query, key, value, biases, prefix, opened, **way)
        (heads,) = by_heads(self.config.mesh, out)
        return answer_of(self, query, heads, self._rows, self.out)

    def _rows(self, x: Float[Array, "#B P D"]) -> tuple[Array, Array]:
        """Keys and values of rows that stand at no position."""
        return self.key(x), self.value(x)


class RelativeBias(nn.Module):
    """A learned number for every head and bucket of distance."""

    config: T5Config

    @nn.compact
    def __call__(self, buckets: Int[Array, "*B T S"]) -> Bias:
        c = self.config
        init = nn.initializers.normal(c.d_model**-0.5)
        axes = ("relative_buckets", "heads")
        shape = (c.relative_attention_num_buckets, c.num_heads)
        table = parameter(self, "embedding", init, axes, shape)
        # Scores are float32, and the bias is added to them unrounded.
        bias = ByBucket(table.astype(jnp.float32), buckets)
        # Once for all layers, unless a kernel makes its own, or it would have rows for more queries
        # than are answered at once.
        queries = buckets.shape[-2]
        kept = c.attention == "pallas" and relative.serves(c.num_heads, c.d_kv, bias, c.mesh)
        return bias if kept or queries > (c.attention_chunk or queries) else bias.rows()


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
        x = virtual_rows(self, x)
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
        index: Int[Array, "*B"],
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
            # A block reads a cache with its own tokens in it; the stack keeps those of all layers.
            key, value = map(swap, written(cache, added, index)[:2])
        x = add(self, "attention", x, normed, attention(normed, key, value, biases))

        cross = Attention(c, name="cross_attention")
        normed = norm(c, "cross_attention_norm")(x)
        if encoded is not None:
            cross_key, cross_value = cross.project(encoded)
            if added is not None:
                added = LayerCache(added.key, added.value, swap(cross_key), swap(cross_value))
        else:  # What the first call put there.
            assert cache and cache.cross_key is not None and cache.cross_value is not None
            cross_key, cross_value = swap(cache.cross_key), swap(cache.cross_value)
        # T5 has no relative bias in cross-attention, so a prompt's positions do not matter there.
        out = cross(normed, cross_key, cross_value, [cross_bias])
        x = add(self, "cross_attention", x, normed, out)
        normed = norm(c, "mlp_norm")(x)
        return add(self, "mlp", x, normed, MLP(c, name="mlp")(normed)), added


def norm(config: T5Config, name: str) -> RMSNorm:
    """The norm before a sublayer or behind a stack."""
    return RMSNorm(config.d_model, config.layer_norm_epsilon, config.dtype, name=name)


class Encoder(nn.Module):
    """[B, S, D] embeddings to [B, S, D] states."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        c, tuned = self.config, self.variables.get("tuned", {})
        prefix, virtual = prefix_of(tuned, "attention"), prefix_length(tuned, "attention")
        # A prefix takes no place of the input: its keys are read as if they stood just before it.
        positions, keys = jnp.arange(x.shape[1]), jnp.arange(-virtual, x.shape[1])
        if prefix is not None and "mask" in prefix:
            # It ends where the text begins, and so behind the padding that a row may begin with.
            begins = jnp.argmax(mask, axis=1)[:, None]
            keys = jnp.where((keys < 0)[None], keys[None] + begins, keys[None])
        buckets = _buckets(c, positions, keys, bidirectional=True)
        # Two biases and not their sum: a row for every text, and one for every head.
        biases = (key_bias(mask, virtual),)
        if not c.bias_per_layer:
            biases = (*biases, RelativeBias(c, name="relative_bias")(buckets))
        x = dropout(self, x.astype(c.dtype))
        x, _ = stack(self, EncoderBlock, c.num_layers, x, biases, buckets)
        return dropout(self, norm(c, "final_norm")(x))


class Decoder(nn.Module):
    """[B, U, D] embeddings of target tokens to [B, U, D] states."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B U D"],
        encoded: Float[Array, "B S D"] | None,
        mask: Bool[Array, "B S"],
        cache: LayerCache | None,
        index: Int[Array, "*B"] | int,
    ) -> tuple[Float[Array, "B U D"], LayerCache | None]:
        c, tuned, tokens = self.config, self.variables.get("tuned", {}), x.shape[1]
        x, index = behind_prompt(socket(self, "prompt"), x, index, first=encoded is not None)
        prefix = prefix_length(tuned, "attention")
        # With a cache, what is new stands at `index` and behind; keys are counted from its front.
        queries = places_from(index, x.shape[1])
        # Those of a prefix are negative, and so each query sees them.
        keys = jnp.arange(-prefix, x.shape[1] if cache is None else cache.key.shape[3])
        buckets = _buckets(c, queries, keys, bidirectional=False)
        # Targets have no mask: padding and the empty places of a cache stand behind them.
        biases = (mask_bias(keys[None, None, :] <= queries[:, :, None])[:, None],)
        if not c.bias_per_layer:
            biases = (*biases, RelativeBias(c, name="relative_bias")(buckets))
        cross_bias = key_bias(mask, prefix_length(tuned, "cross_attention"))
        x = dropout(self, x.astype(c.dtype))
        shared = (biases, buckets, index, encoded, cross_bias)
        x, added = stack(self, DecoderBlock, c.num_decoder_layers, x, *shared, sliced=(cache,))
        if cache is not None:
            cache = written(cache, added, index)
        # Nothing is asked of what stands behind a prompt.
        return dropout(self, norm(c, "final_norm")(x[:, -tokens:])), cache


def _buckets(c: T5Config, queries: Array, keys: Array, *, bidirectional: bool) -> Array:
    return relative_buckets(
        queries,
        keys,
        bidirectional=bidirectional,
        buckets=c.relative_attention_num_buckets,
        max_distance=c.relative_attention_max_distance,
    )


class T5(EncoderDecoder):
    """The whole model; `embed` and `__call__` are what the rest of the library uses."""

    config: T5Config

    def setup(self):
        c = self.config
        init, shape = nn.initializers.normal(1.0), (c.vocab_size, c.d_model)
        self.embedding = parameter(self, "embedding", init, ("vocab", "embed"), shape)
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        if not c.tie_embeddings:
            # A head of its own reads states as they are: T5 1.1 was trained without a scale.
            head = ((c.d_model, c.vocab_size), ("embed", "vocab"), c.d_model**-0.5)
            self.head = Dense(*head, dtype=c.dtype)

    def encode(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The encoder's states; a prompt, if any, is already in `embeddings` and `mask`."""
        return self.encoder(embeddings, mask)

    def decode(
        self,
        tokens: Int[Array, "B U"],
        encoded: Float[Array, "B S D"] | None,
        mask: Bool[Array, "B S"],
        cache: LayerCache | None = None,
        index: Int[Array, "*B"] | int = 0,
    ) -> tuple[Float[Array, "B U V"], LayerCache | None]:
        """Logits of the next token after every decoder token, see `EncoderDecoder`."""
        c = self.config
        x, cache = self.decoder(self.embed(tokens), encoded, mask, cache, index)
        # Rows of a tied table have unit variance: logits would grow as sqrt(D) with the width.
        if c.scale_logits:
            x = x * c.d_model**-0.5
        return word_logits(self, x, None if c.tie_embeddings else self.head), cache

    def room(self, mask: Bool[Array, "B S"], places: int) -> LayerCache:
        """An empty cache, see `EncoderDecoder`."""
        c = self.config
        return empty_cache(c, c.num_heads, c.num_decoder_layers, len(mask), places)
