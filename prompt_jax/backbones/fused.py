"""Attention in one kernel that never holds all scores: cuDNN's on a GPU, Pallas' on a TPU.

Neither has every bias, gate or cache that a model may have. `kernel_of` says which calls one
serves; the products of `attention` serve all others.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_jax.backbones.layers import NEVER, Bias, ByBucket, Causal
from prompt_jax.backbones.relative import relative, serves
from prompt_jax.sharding import Grid

LANES = 128  # Positions and head widths of a tile of a TPU.
BLOCKS = (512, 256, LANES)  # Queries and keys of which scores are held at a time.
FEW = 32  # Queries of decoding, or short targets, fill no tile: their scores are few.
PAIR = 2  # cuDNN takes a bias for even numbers of queries and of keys.

Run: TypeAlias = Callable[..., Float[Array, "B T H K"]]
"""Answers to queries: `run(query, key, value, biases, virtual, cap)`, the first `virtual` keys
being those of a prefix."""


def kernel_of(
    kernel: str,
    query: Float[Array, "B T H K"],
    biases: Sequence[Bias],
    prefix: dict[str, Array] | None,
    cap: float | None,
    mesh: Grid | None = None,
) -> Run | None:
    """The kernel of a name if it serves these; None leaves them to products."""
    if query.shape[1] < FEW or "mask" in (prefix or {}):
        return None
    if kernel == "pallas" and len(biases) == 2 and cap is None:
        hidden, bias = biases
        heads, width = query.shape[2:]
        served = isinstance(bias, ByBucket) and serves(heads, width, bias, mesh)
        alike = isinstance(hidden, jax.Array) and hidden.shape[1:3] == (1, 1)
        return functools.partial(relative, mesh=mesh) if served and alike else None
    # XLA cannot split a kernel over devices, and nothing tells it how for those below.
    if len(biases) != 1 or mesh is not None:
        return None
    (bias,) = biases
    if kernel == "cudnn" and not isinstance(bias, ByBucket):
        widths = range(8, 129, 8)
        fits = cap is None and query.dtype == jnp.bfloat16 and query.shape[3] in widths
        return cudnn if fits else None
    # Splash makes its own mask: keys are hidden from all queries alike, or from those before them.
    alike = isinstance(bias, Causal) or (isinstance(bias, jax.Array) and bias.shape[1:3] == (1, 1))
    return splash if kernel == "pallas" and alike else None


def joined(
    key: Float[Array, "B S G K"], value: Float[Array, "B S G K"], prefix: dict[str, Array] | None
) -> tuple[Float[Array, "B PS G K"], Float[Array, "B PS G K"]]:
    """Keys and values with those of a prefix before them."""
    if prefix is None:
        return key, value

    def behind(first: Array, x: Array) -> Array:
        rows = jnp.broadcast_to(first.astype(x.dtype), (len(x), *first.shape[-3:]))
        return jnp.concatenate([rows, x], axis=1)

    return behind(prefix["key"], key), behind(prefix["value"], value)


def cudnn(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S G K"],
    value: Float[Array, "B S G K"],
    biases: Sequence[Array | Causal],
    virtual: int = 0,
    cap: None = None,
    implementation: str = "cudnn",
) -> Float[Array, "B T H K"]:
    """`jax.nn.dot_product_attention`; the bias is one array, and scores are none."""
    (bias,), queries, keys = biases, query.shape[1], key.shape[1]
    if isinstance(bias, Causal):
        bias = bias.rows(queries, virtual)
    query, key, value = (_filled(x, PAIR) for x in (query, key, value))
    bias = jnp.broadcast_to(bias, (*bias.shape[:2], queries, keys))
    behind = ((0, 0), (0, 0), (0, query.shape[1] - queries), (0, key.shape[1] - keys))
    bias = jnp.pad(bias, behind, constant_values=NEVER).astype(query.dtype)
    # Queries are scaled already, as the model has it.
    options = {"scale": 1.0, "implementation": implementation}
    return jax.nn.dot_product_attention(query, key, value, bias, **options)[:, :queries]


def splash(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S G K"],
    value: Float[Array, "B S G K"],
    biases: Sequence[Array | Causal],
    virtual: int = 0,
    cap: float | None = None,
    interpret: bool = False,
) -> Float[Array, "B T H K"]:
    """Pallas' splash attention: blocks of scores that no query sees are not made.

    Args:
      interpret: runs anywhere, slowly.
    """
    # Only here: Pallas takes a second to import, and nothing but a TPU wants it.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    (bias,), (batch, queries, heads, _), keys = biases, query.shape, key.shape[1]
    causal = isinstance(bias, Causal)
    real = bias.real if causal else jnp.broadcast_to(bias[:, 0, 0] > NEVER / 2, (batch, keys))
    query, key, value = (_filled(x, LANES).swapaxes(1, 2) for x in (query, key, value))
    shape = query.shape[2], key.shape[2]
    # All queries see a prefix, which stands before the first of them.
    mask = masks.CausalMask(shape, offset=virtual) if causal else masks.FullMask(shape)
    # Queries are all of one segment, and hidden keys of none.
    segments = kernels.SegmentIds(
        q=jnp.ones((batch, shape[0]), jnp.int32),
        kv=jnp.pad(real, ((0, 0), (0, shape[1] - keys))).astype(jnp.int32),
    )
    kernel: Any = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=_blocks(kernels.BlockSizes, *shape),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=cap,
        interpret=interpret,
    )
    return jax.vmap(kernel)(query, key, value, segments).swapaxes(1, 2)[:, :queries]


def _blocks(sizes: Callable[..., object], queries: int, keys: int) -> Any:
    block_q, block_kv = (next(b for b in BLOCKS if n % b == 0) for n in (queries, keys))
    names = {"block_q": block_q, "block_kv": block_kv}
    backward = {f"{name}_{of}": block for name, block in names.items() for of in ("dkv", "dq")}
    return sizes(**names, **backward)


def _filled(x: Float[Array, "B S H K"], multiple: int) -> Float[Array, "B S2 H K"]:
    """States with zeros behind them, up to a multiple of positions."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0)))
