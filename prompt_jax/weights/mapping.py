"""Hugging Face's weights of a T5, and our tree: both ways, strictly."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.backbones import t5
from prompt_jax.config import InputError
from prompt_jax.weights.stored import StoredTensor

TABLE, HEAD = "shared.weight", "lm_head.weight"
COPIES = (HEAD, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Second names of the embedding table that some checkpoints keep."""
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
"""In old T5 1.0 checkpoints; no T5 has ever read it."""


def named_table(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The weights with the embedding table under its first name; some writers keep another."""
    others = [tensors[name] for name in COPIES[1:] if name in tensors]
    return {**tensors, TABLE: others[0]} if TABLE not in tensors and others else dict(tensors)


def is_tied(tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether the head is the embedding table: no head is stored, or one that equals the table."""
    return HEAD not in tensors or _is_copy(tensors, HEAD)


def _is_copy(tensors: Mapping[str, StoredTensor], name: str) -> bool:
    if TABLE not in tensors or tensors[name].shape != tensors[TABLE].shape:
        return False
    return np.array_equal(tensors[name].read(), tensors[TABLE].read())


def shapes(config: t5.T5Config) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf of our tree, by path; the stacked ones begin with L."""
    rolled = dataclasses.replace(config, scan=True, remat="none")
    tree = jax.eval_shape(lambda: t5.init_params(rolled, jax.random.key(0)))
    return jax.tree.map(jnp.shape, flax.traverse_util.flatten_dict(tree, sep="/"))


def _torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one layer's leaf in a torch checkpoint: kernels are [out, in] matrices."""
    if not path.endswith("kernel"):
        return shape
    contracted = 2 if path.endswith("out/kernel") else 1
    return math.prod(shape[contracted:]), math.prod(shape[:contracted])


def hugging_face_shapes(config: t5.T5Config) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of a checkpoint, by Hugging Face's name."""
    ours = shapes(config)
    return {
        name: _torch_shape(path, ours[path][1:] if "/layers/" in path else ours[path])
        for path, names in t5.hugging_face_names(config).items()
        for name in names
    }


def assemble(
    source: str, tensors: Mapping[str, StoredTensor], config: t5.T5Config
) -> tuple[dict[str, Any], str]:
    """Our tree in `config.dtype` on the default device, and the fingerprint of the weights.

    One leaf at a time is on the host. The fingerprint is the sha256 over names, shapes and float32
    values: copies of a folder have the same one, in whatever format and type they are stored, as
    long as the values are the same, and in whatever type they are loaded.

    Args:
      source: names the checkpoint in errors.
      tensors: every weight under Hugging Face's name.
      config: of our model; its dtype is that of the tree.

    Raises:
      InputError: a leaf that is missing, extra, mis-shaped, or not finite.
    """
    _check(source, tensors, config)
    names = t5.hugging_face_names(config)
    digest, leaves = hashlib.sha256(), {}
    for path, shape in sorted(shapes(config).items()):
        leaf = np.empty(shape, config.dtype)
        for layer, name in zip(_layers(path, leaf), names[path], strict=True):
            values = _finite(source, name, tensors[name])
            digest.update(f"{name}{list(values.shape)}".encode())
            digest.update(values.data)
            oriented = values.T if path.endswith("kernel") else values
            layer[...] = oriented.reshape(layer.shape)
            del values, oriented  # Or the last layer would stay while the leaf is copied.
        leaves[path] = jax.device_put(leaf).block_until_ready()
    return flax.traverse_util.unflatten_dict(leaves, sep="/"), digest.hexdigest()


def _layers(path: str, leaf: np.ndarray) -> np.ndarray:
    """The leaf with a leading axis, over layers or of length one."""
    return leaf if "/layers/" in path else leaf[None]


def _finite(source: str, name: str, tensor: StoredTensor) -> np.ndarray:
    """The numbers as contiguous float32."""
    values = np.ascontiguousarray(tensor.read(), np.float32)
    if not np.isfinite(values).all():
        raise InputError(
            f"{source}: {name} holds NaN or inf; the checkpoint is damaged or its training "
            f"diverged: download it again or use another one"
        )
    return values


def _check(source: str, tensors: Mapping[str, StoredTensor], config: t5.T5Config) -> None:
    """Compares names and shapes before a number is read."""
    wanted = hugging_face_shapes(config)
    copies = [name for name in COPIES if name in tensors and name not in wanted]
    known = {*wanted, *copies, *UNUSED}
    problems = {
        "missing": [name for name in wanted if name not in tensors],
        "not part of this model": [name for name in tensors if name not in known],
        f"different from {TABLE}": [name for name in copies if not _is_copy(tensors, name)],
        "of another shape": [
            f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
            for name, shape in wanted.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    found = [f"{_first(names)} {what}" for what, names in problems.items() if names]
    if found:
        raise InputError(
            f"{source}: the weights do not fit the config: {'; '.join(found)}. "
            f"Use the config.json that belongs to these weights, and a whole T5 with its decoder"
        )


def _first(names: list[str], limit: int = 3) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def disassemble(params: Mapping[str, Any], config: t5.T5Config) -> dict[str, np.ndarray]:
    """The reverse of `assemble`: arrays under Hugging Face's names, in torch's orientation."""
    leaves = flax.traverse_util.flatten_dict(dict(params), sep="/")
    tensors = {}
    for path, names in t5.hugging_face_names(config).items():
        leaf = np.asarray(leaves[path])
        for layer, name in zip(_layers(path, leaf), names, strict=True):
            wanted = _torch_shape(path, layer.shape)
            oriented = layer.reshape(wanted[::-1]).T if path.endswith("kernel") else layer
            tensors[name] = np.ascontiguousarray(oriented)
    return tensors
