"""What stacks of blocks share: how blocks follow each other, the feed-forward, caches, dropout."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from prompt_jax.backbones.layers import Dense
from prompt_jax.backbones.sockets import bottleneck, socket
from prompt_jax.config import REMATS, at_least, choose
from prompt_jax.sharding import constrain

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
REMAT_POLICIES = {
    "minimal": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running:
    """How a model is run, whatever its shape: what the configs of all families have."""

    vocab_size: int = 1
    """Rows of the embedding table; a tokenizer may know fewer words, or more."""
    pad_token_id: int | None = 0
    """None of a model without a token for padding."""
    eos_token_id: int | None = None
    """None of a model that writes nothing."""
    word_head: bool = True
    """The weights have a head over words; one to read with can do without."""
    dropout: float = 0.0
    """Used only while a "dropout" rng is given."""
    remat: str = "none"
    """What the backward pass recomputes: nothing, or as `REMAT_POLICIES` say."""
    attention_chunk: int | None = None
    """Queries whose scores are in memory at a time; None has those of all."""
    scan: bool = True
    """One compiled block for all layers; False compiles each layer, which is faster on CPU."""
    dtype: DTypeLike = jnp.float32
    mesh: Any = None
    """The devices that share the work, see `prompt_jax.sharding`; None is one."""

    def __post_init__(self):
        choose("remat", self.remat, REMATS)
        if self.attention_chunk is not None:
            at_least("attention_chunk", self.attention_chunk, 1)

    @property
    def filler(self) -> int:
        """What rows are filled up with behind their text, where it is masked.

        What ends a text where there is no padding, or none with a row in the table: it is no word
        of an answer.
        """
        pad = self.pad_token_id
        if pad is None or not 0 <= pad < self.vocab_size:
            return min(self.eos_token_id or 0, self.vocab_size - 1)
        return pad


class LayerCache(NamedTuple):
    """Keys and values of one decoder layer, or of all of them with L in front.

    Heads stand before positions, so that a step reads every head's keys in one piece.
    """

    key: Float[Array, "*L B H U K"]
    value: Float[Array, "*L B H U K"]
    cross_key: Float[Array, "*L B H S K"] | None = None
    cross_value: Float[Array, "*L B H S K"] | None = None


def empty_cache(config: Any, heads: int, layers: int, batch: int, room: int) -> LayerCache:
    """Room for the keys and values of all layers."""
    zeros = jnp.zeros((layers, batch, heads, room, config.d_kv), config.dtype)
    zeros = constrain(zeros, config.mesh, None, "batch", "kv_heads")
    return LayerCache(zeros, zeros)


def swap(x: Array) -> Array:
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


def dropout(module: nn.Module, x: Array, broadcast_dims: tuple[int, ...] = ()) -> Array:
    """Dropout when the caller gave a "dropout" rng, the identity when not."""
    rate = module.config.dropout
    if not rate or not module.has_rng("dropout"):
        return x
    return nn.Dropout(rate, broadcast_dims, deterministic=False, parent=module)(x)


class MLP(nn.Module):
    """The feed-forward layer: gated (`wi_0`, `wi_1`) or plain (`wi`)."""

    config: Any
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c = self.config
        x = constrain(x, c.mesh, "batch")  # States travel, not weights, see `add`.

        def inner(name: str) -> Array:
            kernel = ((c.d_model, c.d_ff), ("embed", "mlp"), c.d_model**-0.5)
            return Dense(*kernel, use_bias=self.use_bias, dtype=c.dtype, name=name)(x)

        activate = ACTIVATIONS[c.activation]
        hidden = activate(inner("wi_0")) * inner("wi_1") if c.gated else activate(inner("wi"))
        hidden = constrain(dropout(self, hidden), c.mesh, "batch", None, "mlp")
        wo = ((c.d_ff, c.d_model), ("mlp", "embed"), c.d_ff**-0.5)
        return Dense(*wo, use_bias=self.use_bias, dtype=c.dtype, name="wo")(hidden)


def add(
    block: nn.Module, sublayer: str, x: Array, normed: Array, out: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
    """The residual sum behind a sublayer, its adapters in between."""
    serial, parallel = (socket(block, name) or {} for name in ("adapter", "parallel"))
    for given, adapter in ((out, serial), (normed, parallel)):
        change = bottleneck(given, adapter.get(sublayer))
        out = out if change is None else out + change
    return constrain(x + dropout(block, out), block.config.mesh, "batch", "length")


def stack(
    module: nn.Module,
    block: type[nn.Module],
    length: int,
    x: Array,
    *shared: Any,
    each: tuple = (),
    fields: dict[str, Any] | None = None,
) -> tuple[Array, Any]:
    """`x` through `length` blocks named `layers`, and what every block gave beside it.

    Args:
      shared: arguments that all blocks share.
      each: arguments of which every block takes its own slice.
      fields: of the blocks, beside the config.
    """
    c, fields = module.config, fields or {}
    x = constrain(x, c.mesh, "batch", "length")
    if c.remat != "none":
        block = nn.remat(block, policy=REMAT_POLICIES[c.remat], prevent_cse=not c.scan)
    if not (c.scan or module.is_initializing()):
        return _apart(module, functools.partial(block, **fields), length, x, shared, each)
    scanned = nn.scan(
        block,
        variable_axes={"params": 0, "tuned": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(*[nn.broadcast] * len(shared), *[0] * len(each)),
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(c, **fields, name="layers")(x, *shared, *each)


def _apart(
    module: nn.Module, block: Any, length: int, x: Array, shared: tuple, each: tuple
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


def kept(intermediates: Any, attentions: Iterable[str]) -> dict[str, dict[str, Array]]:
    """`key` and `value` [L, T, H, K] that attentions sowed for a batch of one row, by path."""
    leaves: Any = flax.traverse_util.flatten_dict(intermediates, sep="/")
    return {
        path: {name: leaves[f"{path}/{name}s"][0][:, 0] for name in ("key", "value")}
        for path in attentions
    }
