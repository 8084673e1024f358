"""Frozen weights in eight or four bits: every kernel and word table beside its scales.

Only what is stored is small; products are of the dtype of activations. In eight bits an output of a
kernel has a scale, which commutes with the sum that made it, so it is applied once the output is
there: per channel, as in section 3 of Dettmers et al. 2022 without its outliers. Where that is too
coarse, every `GROUP` inputs of an output have a scale, applied as the weights are read: in four
bits, and in the word table, whose columns differ in size as what they are compared with does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prompt_jax.config import InputError
from prompt_jax.trees import Frozen, by_path, from_paths

LIMITS = {"int8": 127.0, "float8": 448.0, "int4": 7.0}
"""The largest number of each kind; the largest weight under a scale becomes it."""
GROUP = 64
"""Inputs that share a scale where groups have one, or the most below that divide them evenly."""
_STORED = {"int8": jnp.int8, "float8": jnp.float8_e4m3fn, "int4": jnp.int4}
TABLES = ("embedding", "decoder_embedding")
"""Word tables, by path."""
SCALE = "_scale"


def output_axes(path: str, rank: int) -> tuple[int, ...] | None:
    """Which axes of a leaf are outputs, the layers among them; None of what stays as it is.

    A row of a word table is an output: it is looked up, and it scores a word.
    """
    if path in TABLES:
        return (0,)
    if not path.endswith("kernel"):
        return None
    first = int("layers" in path.split("/"))
    inputs = 2 if path.endswith("out/kernel") else 1
    return (*range(first), *range(first + inputs, rank))


class Held(NamedTuple):
    """How a leaf is held."""

    kind: str
    """`int8`, `float8` or `int4`, a key of `LIMITS`."""
    grouped: bool
    """Whether scales are of groups of inputs, not of outputs."""


def held(path: str, kind: str) -> Held:
    """How a leaf of a tree of some kind is held.

    A word table keeps eight bits, as a row of it is all that a word has.
    """
    if path in TABLES:
        return Held("int8" if kind == "int4" else kind, grouped=True)
    return Held(kind, grouped=kind == "int4")


def scale_axes(shape: Sequence[int], outputs: tuple[int, ...], grouped: bool) -> dict[int, int]:
    """How many scales stand along each axis of a leaf: of groups, or of its outputs alone."""
    if not grouped:
        return {axis: shape[axis] for axis in outputs}
    # Groups lie along the last input axis; of an attention's output that is K, inside a head.
    last = max(axis for axis in range(len(shape)) if axis not in outputs)
    group = next(n for n in range(min(GROUP, shape[last]), 0, -1) if shape[last] % n == 0)
    return {axis: n // group if axis == last else n for axis, n in enumerate(shape)}


def quantise(
    leaf: Float[Array, "*shape"], outputs: tuple[int, ...], how: Held
) -> tuple[Array, Float[Array, "*scales"]]:
    """A leaf in few bits, and its scales."""
    axes = scale_axes(leaf.shape, outputs, how.grouped)
    wide = leaf.astype(jnp.float32)
    counts = [axes.get(axis, 1) for axis in range(leaf.ndim)]
    # Every axis is split into its scales and what is under each, so one maximum serves both kinds.
    grouped = [
        part for n, count in zip(leaf.shape, counts, strict=True) for part in (count, n // count)
    ]
    largest = jnp.abs(wide).reshape(grouped).max(tuple(range(1, 2 * leaf.ndim, 2)))
    limit = LIMITS[how.kind]
    # Zeros have any scale, but not zero, which they are divided by.
    scale = jnp.where(largest > 0, largest / limit, 1.0)
    # In float32, whatever the weights came in: a rounded quotient may fall on the wrong side of .5.
    small = wide / spread(scale, leaf.shape)
    # A cast to float8 rounds by itself, and one to integers cuts. The lowest integer stays unused,
    # so that numbers of both signs round alike and no scale needs a zero point.
    small = small if how.kind == "float8" else jnp.clip(jnp.round(small), -limit, limit)
    return small.astype(_STORED[how.kind]), scale.reshape([axes[axis] for axis in sorted(axes)])


def spread(scale: Float[Array, "*scales"], shape: Sequence[int]) -> Float[Array, "*shape"]:
    """Scales of a leaf's rank, each for all that it scales."""
    for axis, n in enumerate(shape):
        scale = jnp.repeat(scale, n // scale.shape[axis], axis)
    return scale


def is_grouped(leaf: Array, scale: Array | None) -> bool:
    """Whether a leaf's scales are of groups, not of outputs."""
    return scale is not None and scale.ndim == leaf.ndim


def quantise_tree(params: Frozen, kind: str) -> Frozen:
    """A frozen tree whose kernels and word table are in few bits, each with its scales."""
    leaves = {}
    for path, leaf in by_path(params).items():
        outputs = output_axes(path, leaf.ndim)
        if outputs is None:
            leaves[path] = leaf
        else:
            leaves[path], leaves[path + SCALE] = quantise(leaf, outputs, held(path, kind))
    return from_paths(leaves)


def quantised_shapes(shapes: Frozen, kind: str) -> Frozen:
    """What `quantise_tree` makes of the boxed shapes of a tree, with the names of all axes."""
    leaves = {}
    for path, box in by_path(shapes).items():
        outputs = output_axes(path, len(box.names))
        leaves[path] = box
        if outputs is not None:
            how = held(path, kind)
            axes = sorted(scale_axes(box.value.shape, outputs, how.grouped).items())
            small = jax.ShapeDtypeStruct(box.value.shape, _STORED[how.kind])
            leaves[path] = box.replace(value=small)
            scale = jax.ShapeDtypeStruct(tuple(count for _, count in axes), jnp.float32)
            names = tuple(box.names[axis] for axis, _ in axes)
            leaves[path + SCALE] = box.replace(value=scale, names=names)
    return from_paths(leaves)


def dequantised(params: Frozen, path: str) -> Array | np.ndarray:
    """A leaf in numbers of its own size, whether it is held in few bits or not."""
    leaves = by_path(params)
    leaf, scale = leaves[path], leaves.get(path + SCALE)
    if scale is None:
        return leaf
    return widened(leaf, scale, output_axes(path, leaf.ndim) or ())


def widened(leaf: Array, scale: Array, outputs: Sequence[int]) -> Float[Array, "*shape"]:
    """What a leaf and its scales stand for, in float32."""
    if not is_grouped(leaf, scale):
        scale = jnp.expand_dims(scale, [axis for axis in range(leaf.ndim) if axis not in outputs])
    return leaf.astype(jnp.float32) * spread(scale, leaf.shape)


def bytes_of(leaf: Array | jax.ShapeDtypeStruct) -> int:
    """Bytes of an array or of a shape; two numbers of four bits share one, whatever `nbytes` says.

    XLA packs them so on CPU and TPU.
    """
    return -(-leaf.size * jax.dtypes.itemsize_bits(leaf.dtype) // 8)


def check_whole(params: Frozen, user: str) -> None:
    """Checks that no weight is held in few bits.

    Args:
      user: needs them whole; begins the error.

    Raises:
      InputError: some are.
    """
    # Numbers of four bits have an item size of one byte too.
    if any(leaf.dtype.itemsize == 1 for leaf in jax.tree.leaves(params)):
        raise InputError(
            f"{user} changes or copies the weights themselves, and these are held in few bits; "
            "load the backbone with dtype float32 or bfloat16"
        )
