"""T5 in Linen: 1.0, 1.1, LM-adapted, Flan, mT5, ByT5 and umT5 by config, not by copies.

The encoder reads embeddings, not tokens, because a prompt stands between the two (`embed`, then
`__call__`). Layers are scanned, so their parameters carry L in front and a 24-layer model compiles
as fast as a 2-layer one. Raffel et al. 2020 (arXiv 1910.10683); 1.1 follows Shazeer 2020.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.layers import Dense, RMSNorm, attend, mask_bias, relative_buckets
from prompt_jax.config import at_least, choose

MODEL_TYPES = ("t5", "mt5", "umt5")
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "silu": jax.nn.silu,
}
REMAT_POLICIES = {
    "minimal": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """The shape of a T5; the field names are Hugging Face's."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 1024
    num_heads: int = 6
    num_layers: int = 8
    num_decoder_layers: int = 8
    activation: str = "gelu_new"
    gated: bool = True
    tie_embeddings: bool = False
    """The head is the embedding table."""
    scale_logits: bool = False
    """The decoder's output is scaled by D ** -0.5 before the head: the tied models."""
    bias_per_layer: bool = False
    """Every layer has its own relative position bias: umT5."""
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0
    dropout: float = 0.0
    """Used only while a "dropout" rng is given."""
    remat: str = "none"
    unroll: int = 1
    """Layers per step of the scan; on CPU a fully unrolled scan is the faster one."""
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        choose("T5 activation", self.activation, ACTIVATIONS)
        choose("remat", self.remat, ("none", *REMAT_POLICIES))
        for size in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "unroll"):
            at_least(f"T5 {size}", getattr(self, size), 1)


PRESETS = {
    name: T5Config(
        num_heads=heads, num_layers=layers, num_decoder_layers=layers, d_model=width, d_ff=inner
    )
    for name, heads, layers, width, inner in (
        ("t5_1_1_small", 6, 8, 512, 1024),
        ("t5_1_1_base", 12, 12, 768, 2048),
        ("t5_1_1_large", 16, 24, 1024, 2816),
        ("t5_1_1_xl", 32, 24, 2048, 5120),
        ("t5_1_1_xxl", 64, 24, 4096, 10240),
    )
}


def from_hugging_face(values: Mapping[str, Any], *, tied: bool, **ours: Any) -> T5Config:
    """The config of a Hugging Face `config.json`.

    Whether a head exists is read from the weights (`tied`), because config files disagree about
    it: Transformers 5 writes `tie_word_embeddings: true` for models with a head of their own.

    Raises:
      InputError: a model type or an activation that is not T5's.
    """
    choose("T5 model type", values.get("model_type", "t5"), MODEL_TYPES)
    default = "relu" if values.get("model_type", "t5") == "t5" else "gated-gelu"
    gate, _, activation = values.get("feed_forward_proj", default).rpartition("-")
    scaled = values.get("scale_decoder_outputs", values.get("tie_word_embeddings", True))
    names = {f.name for f in dataclasses.fields(T5Config)} & set(values)
    taken = {name: values[name] for name in names if values[name] is not None and name != "dropout"}
    taken.setdefault("num_decoder_layers", taken.get("num_layers", T5Config.num_layers))
    if isinstance(taken.get("eos_token_id"), list):
        taken["eos_token_id"] = taken["eos_token_id"][0]
    return T5Config(
        **{
            **taken,
            "activation": "gelu_new" if (gate, activation) == ("gated", "gelu") else activation,
            "gated": gate == "gated",
            "tie_embeddings": tied,
            # mT5 never scales; umT5 and T5 scale when they were trained tied.
            "scale_logits": bool(scaled) and values.get("model_type") != "mt5",
            "bias_per_layer": values.get("model_type") == "umt5",
            **ours,
        }
    )


class LayerCache(NamedTuple):
    """Keys and values of one decoder layer, or of all of them with L in front.

    Heads stand before positions, so that a step reads every head's keys in one piece.
    """

    key: Float[Array, "*L B H U K"]
    value: Float[Array, "*L B H U K"]
    cross_key: Float[Array, "*L B H S K"] | None = None
    cross_value: Float[Array, "*L B H S K"] | None = None


def _swap(x: Array) -> Array:
    """[B, S, H, K] from [B, H, S, K], and the reverse."""
    return x.swapaxes(1, 2)


def _written(cache: LayerCache, added: LayerCache, index: Int[Array, ""]) -> LayerCache:
    """The cache with new positions from `index` on.

    Layers only give what is new: a whole cache that came out of their scan would be copied at
    every step, and this one write is in place.
    """
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=index, axis=-2)
    key, value = write(cache.key, added.key), write(cache.value, added.value)
    filled = added if cache.cross_key is None else cache
    return LayerCache(key, value, filled.cross_key, filled.cross_value)


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
        return self.key(x), self.value(x)

    def __call__(
        self, x: Float[Array, "B T D"], key: Array, value: Array, bias: Array
    ) -> Float[Array, "B T D"]:
        return self.out(attend(self.query(x), key, value, bias))


class MLP(nn.Module):
    """The feed-forward layer: gated (`wi_0`, `wi_1`) or plain (`wi`)."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c = self.config

        def inner(name: str) -> Array:
            kernel = ((c.d_model, c.d_ff), ("embed", "mlp"), c.d_model**-0.5)
            return Dense(*kernel, dtype=c.dtype, name=name)(x)

        activate = ACTIVATIONS[c.activation]
        hidden = activate(inner("wi_0")) * inner("wi_1") if c.gated else activate(inner("wi"))
        hidden = _dropout(self, hidden)
        wo = Dense((c.d_ff, c.d_model), ("mlp", "embed"), c.d_ff**-0.5, dtype=c.dtype, name="wo")
        return wo(hidden)


def _dropout(module: nn.Module, x: Array, broadcast_dims: tuple[int, ...] = ()) -> Array:
    """Dropout when the caller gave a "dropout" rng, the identity when not."""
    rate = module.config.dropout
    if not rate or not module.has_rng("dropout"):
        return x
    return nn.Dropout(rate, broadcast_dims, deterministic=False, parent=module)(x)


class RelativeBias(nn.Module):
    """A learned number for every head and bucket of distance."""

    config: T5Config

    @nn.compact
    def __call__(self, buckets: Int[Array, "T S"]) -> Float[Array, "1 H T S"]:
        c = self.config
        init = nn.initializers.normal(c.d_model**-0.5)
        axes = ("relative_buckets", "heads")
        shape = (c.relative_attention_num_buckets, c.num_heads)
        table = self.param("embedding", nn.with_logical_partitioning(init, axes), shape)
        return table.astype(jnp.float32)[buckets].transpose(2, 0, 1)[None]


class EncoderBlock(nn.Module):
    """Self-attention and MLP, each behind a norm and beside a residual."""

    config: T5Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], bias: Array, buckets: Array
    ) -> tuple[Float[Array, "B S D"], None]:
        c = self.config
        if c.bias_per_layer:
            bias = bias + RelativeBias(c, name="relative_bias")(buckets)
        attention = Attention(c, name="attention")
        normed = _norm(c, "attention_norm")(x)
        x = x + _dropout(self, attention(normed, *attention.project(normed), bias))
        x = x + _dropout(self, MLP(c, name="mlp")(_norm(c, "mlp_norm")(x)))
        return x, None


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention and MLP; gives what it would add to its cache."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B U D"],
        cache: LayerCache | None,
        bias: Array,
        buckets: Array,
        index: Int[Array, ""],
        encoded: Float[Array, "B S D"] | None,
        cross_bias: Array,
    ) -> tuple[Float[Array, "B U D"], LayerCache | None]:
        c = self.config
        if c.bias_per_layer:
            bias = bias + RelativeBias(c, name="relative_bias")(buckets)
        attention = Attention(c, name="attention")
        normed = _norm(c, "attention_norm")(x)
        key, value = attention.project(normed)
        added = None
        if cache is not None:
            added = LayerCache(_swap(key), _swap(value))
            key, value = map(_swap, _written(cache, added, index)[:2])
        x = x + _dropout(self, attention(normed, key, value, bias))

        cross = Attention(c, name="cross_attention")
        normed = _norm(c, "cross_attention_norm")(x)
        if cache is None or cache.cross_key is None:
            cross_key, cross_value = cross.project(encoded)
            if added is not None:
                added = LayerCache(added.key, added.value, _swap(cross_key), _swap(cross_value))
        else:
            cross_key, cross_value = _swap(cache.cross_key), _swap(cache.cross_value)
        x = x + _dropout(self, cross(normed, cross_key, cross_value, cross_bias))
        x = x + _dropout(self, MLP(c, name="mlp")(_norm(c, "mlp_norm")(x)))
        return x, added


def _norm(config: T5Config, name: str) -> RMSNorm:
    return RMSNorm(config.d_model, config.layer_norm_epsilon, config.dtype, name=name)


def _stack(block: type[nn.Module], config: T5Config, length: int, in_axes: Any) -> nn.Module:
    """`length` blocks as one scanned module named `layers`."""
    if config.remat != "none":
        block = nn.remat(block, policy=REMAT_POLICIES[config.remat], prevent_cse=False)
    scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=length,
        unroll=min(config.unroll, length),
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(config, name="layers")


class Encoder(nn.Module):
    """[B, S, D] embeddings to [B, S, D] states."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        c = self.config
        positions = jnp.arange(x.shape[1])
        buckets = _buckets(c, positions, positions, bidirectional=True)
        bias = mask_bias(mask)[:, None, None, :]
        if not c.bias_per_layer:
            bias = bias + RelativeBias(c, name="relative_bias")(buckets)
        x = _dropout(self, x.astype(c.dtype))
        x, _ = _stack(EncoderBlock, c, c.num_layers, nn.broadcast)(x, bias, buckets)
        return _dropout(self, _norm(c, "final_norm")(x))


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
        index: Int[Array, ""],
    ) -> tuple[Float[Array, "B U D"], LayerCache | None]:
        c = self.config
        queries = index + jnp.arange(x.shape[1])
        keys = jnp.arange(x.shape[1] if cache is None else cache.key.shape[3])
        buckets = _buckets(c, queries, keys, bidirectional=False)
        bias = mask_bias(keys[None, :] <= queries[:, None])[None, None]
        if not c.bias_per_layer:
            bias = bias + RelativeBias(c, name="relative_bias")(buckets)
        cross_bias = mask_bias(mask)[:, None, None, :]
        x = _dropout(self, x.astype(c.dtype))
        layers = _stack(DecoderBlock, c, c.num_decoder_layers, (0, *[nn.broadcast] * 5))
        x, added = layers(x, cache, bias, buckets, index, encoded, cross_bias)
        if cache is not None:
            cache = _written(cache, added, index)
        return _dropout(self, _norm(c, "final_norm")(x)), cache


def _buckets(c: T5Config, queries: Array, keys: Array, *, bidirectional: bool) -> Array:
    return relative_buckets(
        queries,
        keys,
        bidirectional=bidirectional,
        buckets=c.relative_attention_num_buckets,
        max_distance=c.relative_attention_max_distance,
    )


class T5(nn.Module):
    """The whole model; `embed` and `__call__` are what the rest of the library uses."""

    config: T5Config

    def setup(self):
        c = self.config
        self.embedding = self.param(
            "embedding",
            nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed")),
            (c.vocab_size, c.d_model),
        )
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        if not c.tie_embeddings:
            head = ((c.d_model, c.vocab_size), ("embed", "vocab"), c.d_model**-0.5)
            self.head = Dense(*head, dtype=c.dtype)

    def embed(self, tokens: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        """Rows of the embedding table; T5 scales nothing here."""
        return self.embedding.astype(self.config.dtype)[tokens]

    def encode(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The encoder's states; a prompt, if any, is already in `embeddings` and `mask`."""
        return self.encoder(embeddings, mask)

    def decode(
        self,
        decoder_tokens: Int[Array, "B U"],
        encoded: Float[Array, "B S D"] | None,
        mask: Bool[Array, "B S"],
        cache: LayerCache | None = None,
        index: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B U V"], LayerCache | None]:
        """Logits of the next token after every decoder token.

        With a `cache` from `empty_cache`, the first call needs `encoded` and fills the keys and
        values of cross-attention; later calls pass `encoded=None` and only the new tokens, whose
        first one stands at position `index`.
        """
        c = self.config
        x = self.embed(decoder_tokens)
        x, cache = self.decoder(x, encoded, mask, cache, jnp.asarray(index))
        if c.scale_logits:
            x = x * c.d_model**-0.5
        if c.tie_embeddings:
            logits = jnp.einsum("bud,vd->buv", x, self.embedding.astype(c.dtype))
        else:
            logits = self.head(x)
        return logits.astype(jnp.float32), cache

    def __call__(
        self,
        embeddings: Float[Array, "B S D"],
        mask: Bool[Array, "B S"],
        decoder_tokens: Int[Array, "B U"],
    ) -> Float[Array, "B U V"]:
        """Logits [B, U, V], float32; `decoder_tokens` start with the decoder's start token."""
        return self.decode(decoder_tokens, self.encode(embeddings, mask), mask)[0]


def empty_cache(config: T5Config, batch_size: int, length: int) -> LayerCache:
    """A cache for `length` target tokens, before the first call of `T5.decode`."""
    shape = (config.num_decoder_layers, batch_size, config.num_heads, length, config.d_kv)
    return LayerCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))


def shift_right(targets: Int[Array, "B U"], start: int) -> Int[Array, "B U"]:
    """Decoder inputs of `targets`: the start token, then every target but the last."""
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=start)


@functools.partial(jax.jit, static_argnums=0)  # Eagerly it compiles four times as long.
def init_params(config: T5Config, key: jax.Array) -> dict[str, Any]:
    """Random parameters; under `jax.eval_shape` their shapes, for models of any size."""
    embeddings = jnp.zeros((1, 1, config.d_model), config.dtype)
    mask, tokens = jnp.ones((1, 1), bool), jnp.zeros((1, 1), jnp.int32)
    return nn.unbox(T5(config).init(key, embeddings, mask, tokens))["params"]
