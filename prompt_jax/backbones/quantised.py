"""Frozen weights in eight bits: every kernel and word table beside a scale for each of its outputs.

Only what is stored is small; products are of the dtype of activations, and an output is scaled
once it is there, since a scale of an output commutes with the sum that made it. Weight-only and
per channel, as in section 3 of Dettmers et al. 2022 without its outliers.
"""

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_jax.config import InputError

LIMITS = {"int8": 127.0, "float8": 448.0}
"""The largest number of each kind; the largest weight of an output becomes it."""
_STORED = {"int8": jnp.int8, "float8": jnp.float8_e4m3fn}
TABLE = "embedding"
SCALE = "_scale"


def output_axes(path: str, rank: int) -> tuple[int, ...] | None:
    """Which axes of a leaf are outputs, the layers among them; None of what stays as it is.

    A row of a word table is an output: it is looked up, and it scores a word.
    """
    if path == TABLE:
        return (0,)
    if not path.endswith("kernel"):
        return None
    first = int("layers" in path.split("/"))
    inputs = 2 if path.endswith("out/kernel") else 1
    return (*range(first), *range(first + inputs, rank))


def quantise(
    leaf: Float[Array, "*shape"], outputs: tuple[int, ...], kind: str
) -> tuple[Array, Float[Array, "*outputs"]]:
    """A leaf in eight bits, and the scale of every output."""
    inputs = tuple(axis for axis in range(leaf.ndim) if axis not in outputs)
    wide = leaf.astype(jnp.float32)
    largest = jnp.abs(wide).max(inputs, keepdims=True)
    scale = jnp.where(largest > 0, largest / LIMITS[kind], 1.0)
    small = wide / scale
    small = jnp.round(small) if kind == "int8" else small
    return small.astype(_STORED[kind]), jnp.squeeze(scale, inputs)


def quantise_tree(params: Any, kind: str) -> Any:
    """A frozen tree whose kernels and word table are in eight bits, each with its scales."""
    leaves: dict[str, Any] = {}
    for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items():
        outputs = output_axes(path, leaf.ndim)
        if outputs is None:
            leaves[path] = leaf
        else:
            leaves[path], leaves[path + SCALE] = quantise(leaf, outputs, kind)
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def quantised_shapes(shapes: Any, kind: str) -> Any:
    """What `quantise_tree` makes of the boxed shapes of a tree, with the names of all axes."""
    leaves: dict[str, Any] = {}
    for path, box in flax.traverse_util.flatten_dict(shapes, sep="/").items():
        outputs = output_axes(path, len(box.names))
        leaves[path] = box
        if outputs is not None:
            shape, names = ([part[i] for i in outputs] for part in (box.value.shape, box.names))
            small = jax.ShapeDtypeStruct(box.value.shape, _STORED[kind])
            leaves[path] = box.replace(value=small)
            scale = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
            leaves[path + SCALE] = box.replace(value=scale, names=tuple(names))
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def dequantised(params: Any, path: str) -> Any:
    """A leaf in numbers of its own size, whether it is held in eight bits or not."""
    leaves: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep="/")
    leaf, scale = leaves[path], leaves.get(path + SCALE)
    if scale is None:
        return leaf
    outputs = output_axes(path, leaf.ndim) or ()
    inputs = tuple(axis for axis in range(leaf.ndim) if axis not in outputs)
    return leaf.astype(jnp.float32) * jnp.expand_dims(scale, inputs)


def scale_of(module: nn.Module, name: str) -> Array | None:
    """The scales of a parameter that is held in eight bits; None of any other."""
    name += SCALE
    return module.get_variable("params", name) if module.has_variable("params", name) else None


def check_whole(params: Any, what: str) -> None:
    """Checks that no weight is held in eight bits.

    Args:
      what: needs them whole; begins the error.

    Raises:
      InputError: some are.
    """
    if any(leaf.dtype.itemsize == 1 for leaf in jax.tree.leaves(params)):
        raise InputError(
            f"{what} changes or copies the weights themselves, and these are held in eight bits; "
            "load the backbone with dtype float32 or bfloat16"
        )
