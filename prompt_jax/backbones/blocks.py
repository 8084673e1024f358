"""What blocks are made of: attention, the feed-forward, residuals; and how blocks are stacked."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.config import ModelConfig
from prompt_jax.backbones.layers import (
    ACTIVATIONS,
    Dense,
    constrain,
    mask_bias,
    socket,
)
from prompt_jax.backbones.sockets import (
    bottleneck,
    with_rows,
)
from prompt_jax.trees import Tree, Tuned

REMAT_POLICIES = {
    # Products with kernels are kept. Those of attention have batch axes, and are made again.
    "minimal": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def places_from(first: Int[Array, "*B"] | int, count: int) -> Int[Array, "#B T"]:
    """So many places from `first` on, in all rows or in each."""
    return jnp.asarray(first).reshape(-1, 1) + jnp.arange(count)[None, :]


def relative_buckets(
    query: Int[Array, "*#B T"],
    key: Int[Array, "*#B S"],
    *,
    bidirectional: bool,
    buckets: int = 32,
    max_distance: int = 128,
) -> Int[Array, "*B T S"]:
    """The bucket of every query-key distance: exact when near, logarithmic when far.

    Both may stand elsewhere in every row. Raffel et al. 2020, section 2.1; distances from
    `max_distance` on share the last bucket.
    """
    # Ranks are made equal by hand, as the suite forbids that JAX does it.
    rank = max(query.ndim, key.ndim)
    query, key = (x.reshape(*[1] * (rank - x.ndim), *x.shape) for x in (query, key))
    distance = key[..., None, :] - query[..., :, None]
    offset = jnp.zeros_like(distance)
    if bidirectional:  # Half of the buckets for each side.
        buckets //= 2
        # Keys to the right of a query have the upper half, as in T5's checkpoints.
        offset = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        # Keys ahead are hidden by the causal mask; here they only need some bucket.
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    # At least 1, as the branch that is not taken must be finite too.
    ratio = jnp.log(jnp.maximum(distance, 1) / exact) / jnp.log(max_distance / exact)
    # The cast cuts, as T5 does: rounding would move the borders of the buckets.
    far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return offset + jnp.where(distance < exact, distance, far)


def by_heads(
    mesh: Mesh | None, *states: Float[Array, "B T H K"], axis: str = "heads"
) -> list[Array]:
    """Queries, keys or values with their heads where those of the kernels are."""
    return [constrain(x, mesh, "batch", None, axis) for x in states]


class MLP(nn.Module):
    """The feed-forward layer: gated (`wi_0`, `wi_1`, or both in a fused `wi`) or plain (`wi`)."""

    config: ModelConfig
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c = self.config
        x = constrain(x, c.mesh, "batch")  # States travel, not weights, see `add`.
        always = {"use_bias": self.use_bias, "dtype": c.dtype, "scanned": c.scan}

        def inner(name: str, *maps: int) -> Array:
            kernel = ((c.d_model, *maps, c.d_ff), ("embed", *["maps"] * len(maps), "mlp"))
            # A mesh splits what is behind `maps`, as it does heads of a fused kernel.
            options = {"as_matrix": not maps or c.mesh is None, "name": name}
            return Dense(*kernel, c.d_model**-0.5, **options, **always)(x)

        activate = ACTIVATIONS[c.activation]
        # What is activated comes first: Shazeer's gate, which Llama calls `gate_proj`.
        if not c.gated:
            hidden = activate(inner("wi"))
        elif c.fused_mlp:
            gate, linear = jnp.moveaxis(inner("wi", 2), 2, 0)
            hidden = activate(gate) * linear
        else:
            hidden = activate(inner("wi_0")) * inner("wi_1")
        # Split as the columns of `wi` and the rows of `wo` are, so that neither kernel moves.
        hidden = constrain(dropout(self, hidden), c.mesh, "batch", None, "mlp")
        wo = ((c.d_ff, c.d_model), ("mlp", "embed"), c.d_ff**-0.5)
        return Dense(*wo, **always, name="wo")(hidden)


def dropout(module: nn.Module, x: Array) -> Array:
    """Dropout when the caller gave a "dropout" rng, the identity when not."""
    rate = module.config.dropout
    if not rate or not module.has_rng("dropout"):
        return x
    return nn.Dropout(rate, deterministic=False, parent=module)(x)


def virtual_rows(block: nn.Module, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """The states that a block begins with: its own virtual tokens, if any, are their first P."""
    prompt = socket(block, "prompt")
    return x if prompt is None else with_rows(x, prompt)


def prefix_of(tuned: Tuned, attention: str) -> dict[str, Array] | None:
    """The prefix of an attention in a stack, L in front; None without one.

    Args:
      tuned: what a method put into the stack.
      attention: `attention` or `cross_attention`.
    """
    return tuned.get("layers", {}).get(attention, {}).get("prefix")


def key_bias(mask: Bool[Array, "B S"], prefix: int) -> Float[Array, "B 1 1 PS"]:
    """The bias that hides masked keys; a prefix stands before them and is seen."""
    # The same for all heads and queries: as [B, H, T, S] a bias would be as large as the scores.
    return mask_bias(jnp.pad(mask, ((0, 0), (prefix, 0)), constant_values=True))[:, None, None, :]


def prefix_length(tuned: Tuned, attention: str) -> int:
    """How many keys a prefix puts before those of an attention; 0 without one."""
    prefix = prefix_of(tuned, attention)
    # Counted from the right, since L and B may stand in front.
    return 0 if prefix is None else prefix["key"].shape[-3]


def add(
    block: nn.Module, sublayer: str, x: Array, normed: Array, out: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
    """The residual sum behind a sublayer, its adapters in between.

    Args:
      block: where adapters are looked for.
      sublayer: `attention`, `cross_attention` or `mlp`.
      x: the residual stream.
      normed: what the sublayer read, as a parallel adapter does.
      out: what the sublayer gave, which a serial adapter reads.
    """
    serial, parallel = socket(block, "adapter"), socket(block, "parallel")
    for states, adapters in ((out, serial), (normed, parallel)):
        if adapters is not None and sublayer in adapters:
            out = out + bottleneck(states, adapters[sublayer])
    # Between sublayers every device holds a part of the positions: norms and residuals are then
    # shared out along `tensor` as well, and only what a product reads is gathered.
    return constrain(x + dropout(block, out), block.config.mesh, "batch", "length")


def stack(
    module: nn.Module,
    block: type[nn.Module],
    length: int,
    x: Array,
    *shared: Tree,
    sliced: tuple = (),
    fields: dict[str, Any] | None = None,
) -> tuple[Array, Tree]:
    """`x` through `length` blocks named `layers`, and what every block gave beside it.

    Args:
      shared: arguments that all blocks share.
      sliced: arguments of which every block takes its own slice.
      fields: of the blocks, beside the config.
    """
    c, fields = module.config, fields or {}
    x = constrain(x, c.mesh, "batch", "length")
    if c.remat != "none":
        # In a scan nothing is merged across its border, so that a barrier against it is no use.
        block = nn.remat(block, policy=REMAT_POLICIES[c.remat], prevent_cse=not c.scan)
    # Weights are stacked however layers are run, so they are always initialised by the scan.
    if not (c.scan or module.is_initializing()):
        return _apart(module, functools.partial(block, **fields), length, x, shared, sliced)
    axes: Any = (*[nn.broadcast] * len(shared), *[0] * len(sliced))
    # A rng for dropout a layer, or all would drop the same places.
    scanned = nn.scan(
        block,
        # Sown values are stacked too, as `keys_and_values` reads them.
        variable_axes={"params": 0, "tuned": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=axes,
        length=length,
        # No rule of `sharding` knows this name, so that no mesh splits the axis of layers.
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(c, **fields, name="layers")(x, *shared, *sliced)


def _apart(
    module: nn.Module,
    block: Callable[..., nn.Module],
    length: int,
    x: Array,
    shared: tuple,
    sliced: tuple,
) -> tuple[Array, Tree]:
    """The blocks one by one, so that each is compiled; leaves are stacked, or tuples of layers."""
    # Applied to trees by hand: as submodules, the blocks would need a tree of their own each.
    variables = {k: tree["layers"] for k, tree in module.variables.items() if "layers" in tree}
    outs = []
    for i in range(length):
        layer = jax.tree.map(lambda v: v[i], variables, is_leaf=lambda v: isinstance(v, tuple))  # noqa: B023
        slices = jax.tree.map(lambda v: v[i], sliced)  # noqa: B023
        # Each call of `make_rng` gives another key, so layers do not drop the same places.
        rngs = {"dropout": module.make_rng("dropout")} if module.has_rng("dropout") else None
        with jax.named_scope(f"layer_{i}"):
            x, out = block(module.config).apply(layer, x, *shared, *slices, rngs=rngs)
        outs.append(out)
    # With L in front, as a scan gives them.
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)
