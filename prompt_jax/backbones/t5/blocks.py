"""The layers of a T5: attention, feed-forward, and the encoder's and decoder's blocks of them."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_jax.backbones.layers import Dense, RMSNorm, attend
from prompt_jax.backbones.sockets import bottleneck, socket, with_rows
from prompt_jax.backbones.t5.config import T5Config

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


def written(cache: LayerCache, added: LayerCache, index: Int[Array, ""]) -> LayerCache:
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
        key, value = self.key(x), self.value(x)
        # Kept only for a caller that asks for them, see `keys_and_values`.
        self.sow("intermediates", "keys", key)
        self.sow("intermediates", "values", value)
        return key, value

    def __call__(
        self, x: Float[Array, "B T D"], key: Array, value: Array, bias: Array
    ) -> Float[Array, "B T D"]:
        return self.out(attend(self.query(x), key, value, bias, socket(self, "prefix")))


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
        hidden = dropout(self, hidden)
        wo = Dense((c.d_ff, c.d_model), ("mlp", "embed"), c.d_ff**-0.5, dtype=c.dtype, name="wo")
        return wo(hidden)


def dropout(module: nn.Module, x: Array, broadcast_dims: tuple[int, ...] = ()) -> Array:
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


def add(
    block: nn.Module, sublayer: str, x: Array, normed: Array, out: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
    """The residual sum behind a sublayer, its adapters in between."""
    serial, parallel = (socket(block, name) or {} for name in ("adapter", "parallel"))
    for given, adapter in ((out, serial), (normed, parallel)):
        change = bottleneck(given, adapter.get(sublayer))
        out = out if change is None else out + change
    return x + dropout(block, out)


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
        x = with_rows(x, socket(self, "prompt"))
        attention = Attention(c, name="attention")
        normed = norm(c, "attention_norm")(x)
        out = attention(normed, *attention.project(normed), bias)
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
        bias: Array,
        buckets: Array,
        index: Int[Array, ""],
        encoded: Float[Array, "B S D"] | None,
        cross_bias: Array,
        cache: LayerCache | None,
    ) -> tuple[Float[Array, "B U D"], LayerCache | None]:
        c = self.config
        if c.bias_per_layer:
            bias = bias + RelativeBias(c, name="relative_bias")(buckets)
        attention = Attention(c, name="attention")
        normed = norm(c, "attention_norm")(x)
        key, value = attention.project(normed)
        added = None
        if cache is not None:
            added = LayerCache(_swap(key), _swap(value))
            key, value = map(_swap, written(cache, added, index)[:2])
        x = add(self, "attention", x, normed, attention(normed, key, value, bias))

        cross = Attention(c, name="cross_attention")
        normed = norm(c, "cross_attention_norm")(x)
        if cache is None or cache.cross_key is None:
            cross_key, cross_value = cross.project(encoded)
            if added is not None:
                added = LayerCache(added.key, added.value, _swap(cross_key), _swap(cross_value))
        else:
            cross_key, cross_value = _swap(cache.cross_key), _swap(cache.cross_value)
        out = cross(normed, cross_key, cross_value, cross_bias)
        x = add(self, "cross_attention", x, normed, out)
        normed = norm(c, "mlp_norm")(x)
        return add(self, "mlp", x, normed, MLP(c, name="mlp")(normed)), added


def norm(config: T5Config, name: str) -> RMSNorm:
    """The norm before a sublayer or behind a stack."""
    return RMSNorm(config.d_model, config.layer_norm_epsilon, config.dtype, name=name)


def stack(
    module: nn.Module, block: type[nn.Module], length: int, x: Array, *shared: Any, each: tuple = ()
) -> tuple[Array, Any]:
    """`x` through `length` blocks named `layers`, and what every block gave beside it.

    Args:
      shared: arguments that all blocks share.
      each: arguments of which every block takes its own slice.
    """
    c = module.config
    if c.remat != "none":
        block = nn.remat(block, policy=REMAT_POLICIES[c.remat], prevent_cse=not c.scan)
    if not (c.scan or module.is_initializing()):
        return _apart(module, block, length, x, shared, each)
    scanned = nn.scan(
        block,
        variable_axes={"params": 0, "tuned": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(*[nn.broadcast] * len(shared), *[0] * len(each)),
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(c, name="layers")(x, *shared, *each)


def _apart(
    module: nn.Module, block: type[nn.Module], length: int, x: Array, shared: tuple, each: tuple
) -> tuple[Array, Any]:
    """The blocks one by one, so that each is compiled; leaves are stacked, or tuples of layers."""
    variables = {k: tree["layers"] for k, tree in module.variables.items() if "layers" in tree}
    outs = []
    for i in range(length):
        own = jax.tree.map(lambda v: v[i], variables, is_leaf=lambda v: isinstance(v, tuple))  # noqa: B023
        slices = jax.tree.map(lambda v: v[i], each)  # noqa: B023
        rngs = {"dropout": module.make_rng("dropout")} if module.has_rng("dropout") else None
        x, out = block(module.config).apply(own, x, *shared, *slices, rngs=rngs)
        outs.append(out)
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)


def unstack(params: Any) -> Any:
    """Frozen parameters with a tuple of layers for every stacked leaf.

    A program whose layers are apart would copy each one out of a stacked leaf at every call.
    """
    if not isinstance(params, dict):
        return params
    return {
        name: jax.tree.map(tuple, tree) if name == "layers" else unstack(tree)
        for name, tree in params.items()
    }
