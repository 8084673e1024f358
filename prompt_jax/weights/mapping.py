"""Hugging Face's weights and our tree: both ways, strictly."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from prompt_jax.backbones import FAMILIES, Family, ModelConfig, family_of, init_params, shardings
from prompt_jax.backbones.quantised import SCALE, held, output_axes, quantise
from prompt_jax.config import InputError
from prompt_jax.processes import from_first, is_first
from prompt_jax.trees import Frozen, by_path, from_paths
from prompt_jax.weights.pieces import Layout, Piece, make_leaf, read_blocks
from prompt_jax.weights.stored import StoredTensor

TABLES = tuple(
    sorted({".".join(table.split(".")[-2:]) for family in FAMILIES for table in family.TABLES})
)
"""How names of embedding tables end in all families, whatever stands before."""


def is_tied(tensors: Mapping[str, StoredTensor], family: Family) -> bool:
    """Whether the head is the embedding table: no head is stored, or one that equals the table."""
    head = family.COPIES[0]
    return head not in tensors or _is_copy(tensors, head, family)


def _is_copy(tensors: Mapping[str, StoredTensor], name: str, family: Family) -> bool:
    table = next((tensors[table] for table in family.TABLES if table in tensors), None)
    if table is None or tensors[name].shape != table.shape:
        return False
    # Heads that are no copy differ in their first row: two large tables need not be read for it.
    first = [tensor.read_rows(0, 1) for tensor in (tensors[name], table) if tensor.read_rows]
    if len(first) == 2 and not np.array_equal(first[0], first[1]):
        return False
    return np.array_equal(tensors[name].read(), table.read())


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf of our tree, by path; the stacked ones begin with L."""
    rolled = dataclasses.replace(config, scan=True, remat="none")
    tree = jax.eval_shape(lambda: init_params(rolled, jax.random.key(0)))
    return {path: leaf.shape for path, leaf in by_path(tree).items()}


def _stored_shape(path: str, shape: tuple[int, ...], config: ModelConfig) -> tuple[int, ...]:
    """The shape of one layer's leaf in a checkpoint: matrices [out, in], or [in, out] in GPT-2."""
    if path.endswith("bias"):
        return (math.prod(shape),)
    if not path.endswith("kernel"):
        return shape
    contracted = 2 if path.endswith("out/kernel") else 1
    ends = math.prod(shape[:contracted]), math.prod(shape[contracted:])
    return ends[::-1] if family_of(config).transposed(config, path) else ends


def hugging_face_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of a checkpoint, by Hugging Face's name."""
    leaves = shapes(config)
    return {
        name: _stored_shape(path, leaves[path][1:] if "/layers/" in path else leaves[path], config)
        for path, names in family_of(config).hugging_face_names(config).items()
        for name in names
    }


def _layout(path: str, shape: tuple[int, ...], config: ModelConfig) -> Layout:
    stacked = "/layers/" in path
    inner = len(shape) - stacked
    if path.endswith("bias"):
        return Layout(stacked, inner, False)
    first = 2 if path.endswith("out/kernel") else 1
    return Layout(stacked, first, family_of(config).transposed(config, path))


def assemble(
    source: str,
    tensors: Mapping[str, StoredTensor],
    config: ModelConfig,
    progress: Callable[[int], None] | None = None,
    kind: str | None = None,
) -> tuple[Frozen, str]:
    """Our tree in `config.dtype` on its devices, and the fingerprint of the weights.

    One leaf at a time is on the host, see `pieces`. The fingerprint is the sha256 over names,
    shapes and float32 values: copies of a folder have the same one, in whatever format and type
    they are stored, as long as the values are the same, and in whatever type they are loaded. Of
    several processes the first one reads all for it, and the others what their devices need.

    Args:
      source: names the checkpoint in errors.
      tensors: every weight under Hugging Face's name.
      config: of our model; its dtype and its mesh are those of the tree.
      progress: called with the bytes of every block that was read.
      kind: of `quantised.LIMITS`: holds kernels and the word table so, leaf by leaf as they come.

    Raises:
      InputError: a leaf that is missing, extra, mis-shaped, or not finite.
    """
    _check(source, tensors, config)
    names = family_of(config).hugging_face_names(config)
    digest, leaves, hashing = hashlib.sha256(), {}, is_first()
    placed = by_path(shardings(config) if config.mesh else {})
    # Sorted, because the fingerprint depends on the order of the leaves.
    for path, shape in sorted(shapes(config).items()):

        def fill(pieces: Sequence[Piece], weights: Sequence[str] = names[path]) -> None:
            for layer, name in enumerate(weights):
                digest.update(f"{name}{list(tensors[name].shape)}".encode())
                for first, block in read_blocks(tensors[name], pieces, every_row=hashing):
                    digest.update(_finite(source, name, block).data)
                    for piece in pieces:
                        piece.put(layer, first, block)
                    if progress:
                        progress(block.size * tensors[name].dtype.itemsize)

        layout = _layout(path, shape, config)
        leaf = make_leaf(shape, config.dtype, placed.get(path), layout, fill)
        outputs = output_axes(path, leaf.ndim)
        if kind is None or outputs is None:
            leaves[path] = leaf
        else:
            leaves[path], leaves[path + SCALE] = _quantise(leaf, outputs, held(path, kind))
    fingerprint = from_first(np.frombuffer(digest.digest(), np.uint8)).tobytes().hex()
    return from_paths(leaves), fingerprint


_quantise = jax.jit(quantise, static_argnums=(1, 2))


def _layers(path: str, leaf: np.ndarray) -> np.ndarray:
    """The leaf with a leading axis, over layers or of length one."""
    return leaf if "/layers/" in path else leaf[None]


def _finite(source: str, name: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InputError(
            f"{source}: {name} holds NaN or inf; the checkpoint is damaged or its training "
            f"diverged: download it again or use another one"
        )
    return values


def _check(source: str, tensors: Mapping[str, StoredTensor], config: ModelConfig) -> None:
    """Compares names and shapes before a number is read."""
    expected = hugging_face_shapes(config)
    family = family_of(config)
    copies = [name for name in family.COPIES if name in tensors and name not in expected]
    names = {*expected, *copies}
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "not part of this model": [name for name in tensors if name not in names],
        "different from the embedding table": [
            name for name in copies if not _is_copy(tensors, name, family)
        ],
        "of another shape": [
            f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    faults = [f"{_first(weights)} {fault}" for fault, weights in problems.items() if weights]
    if faults:
        raise InputError(
            f"{source}: the weights do not fit the config: {'; '.join(faults)}. "
            f"Use the config.json that belongs to these weights, and a whole model with its decoder"
        )


def _first(names: list[str], limit: int = 3) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def disassemble(params: Frozen, config: ModelConfig) -> dict[str, np.ndarray]:
    """The reverse of `assemble`: arrays under Hugging Face's names, in torch's orientation."""
    leaves = by_path(params)
    tensors = {}
    for path, names in family_of(config).hugging_face_names(config).items():
        leaf = np.asarray(leaves[path])
        for layer, name in zip(_layers(path, leaf), names, strict=True):
            shape = _stored_shape(path, layer.shape, config)
            turned = family_of(config).transposed(config, path)
            oriented = layer.reshape(shape[::-1]).T if turned else layer.reshape(shape)
            tensors[name] = np.ascontiguousarray(oriented)
    return tensors
