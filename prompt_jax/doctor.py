"""What a machine has, how a model would lie on it, and what is commonly wrong."""

import importlib.metadata
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from prompt_jax.backbones import boxed_shapes, shardings
from prompt_jax.sharding import ASSUMED_MEMORY, AXES, ROOM, describe, device_memory

PACKAGES = ("prompt-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers")
ACCELERATORS = {
    "/dev/nvidia0": 'an NVIDIA GPU: pip install "prompt-jax[cuda]"',
    "/dev/accel0": 'a TPU: pip install "prompt-jax[tpu]"',
    "/dev/vfio/0": 'a TPU: pip install "prompt-jax[tpu]"',
}
"""Where a device shows that JAX may have no plugin for."""


def examine(config: Any) -> str:
    """The report of `prompt-jax doctor`.

    Args:
      config: of a backbone, on the mesh that it would have.
    """
    parts = {
        "versions": _versions(),
        "devices": _devices(),
        "mesh": [describe(config.mesh), *_mesh_rows(config.mesh)],
        "weights": _weights(config),
        "to look at": mistakes(config) or ["nothing"],
    }
    return "\n\n".join(f"{name}\n" + "\n".join(f"  {x}" for x in p) for name, p in parts.items())


def draw(config: Any) -> None:
    """Prints which device holds which part of the embedding table."""
    if config.mesh is not None:
        leaf, own = _leaves(config)["embedding"]
        print("\nembedding [V, D]")
        jax.debug.visualize_sharding(leaf.shape, own)


def mistakes(config: Any) -> list[str]:
    """What would run, and not as it was meant."""
    mesh, kind = config.mesh, jax.default_backend()
    used = 1 if mesh is None else mesh.size
    found = []
    if kind == "cpu":
        found += [
            f"JAX sees no {what}" for path, what in ACCELERATORS.items() if Path(path).exists()
        ]
    if used < jax.device_count():
        found.append(f"{jax.device_count() - used} of {jax.device_count()} devices are idle")
    if kind == "cpu" and jax.device_count() > 1:
        found.append("these CPU devices are fake: good for tests, slower than one for work")
    if jax.config.jax_enable_x64:
        found.append("jax_enable_x64 is on: some of the arithmetic is in float64, and slow")
    if jax.config.jax_disable_jit:
        found.append("jax_disable_jit is on: nothing is compiled")
    if mesh is not None and mesh.shape["data"] == 1 and mesh.shape["fsdp"] == 1:
        found.append("rows are not shared out: larger batches need mesh.data or mesh.fsdp")
    size, room = _bytes_per_device(config), device_memory(jax.local_devices())
    if size > ROOM * room:
        found.append(
            f"weights take {size / 1e9:.1f} of {room / 1e9:.1f} GB of a device: take more devices "
            "(mesh.fsdp auto, mesh.tensor auto) or frozen.dtype bfloat16"
        )
    return found + _misfits(config)


def _misfits(config: Any) -> list[str]:
    """Axes that the mesh does not divide, and what is done instead."""
    if config.mesh is None:
        return []
    tensor, fsdp = config.mesh.shape["tensor"], config.mesh.shape["fsdp"]
    found = []
    heads = getattr(config, "num_kv_heads", config.num_heads)
    if heads % tensor:
        found.append(
            f"{heads} heads of keys on {tensor} devices of mesh.tensor: each computes them all; "
            f"a divisor of {heads} would share them"
        )
    if config.vocab_size % (tensor * fsdp):
        found.append(
            f"a vocabulary of {config.vocab_size} on {tensor * fsdp} devices: the table is split "
            "along its width, and moved to split the logits"
        )
    return found


def _versions() -> list[str]:
    rows = [f"{'python':<18}{platform.python_version()}"]
    for name in PACKAGES:
        try:
            rows.append(f"{name:<18}{importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            rows.append(f"{name:<18}not installed")
    return rows


def _devices() -> list[str]:
    kinds: dict[str, list[Any]] = {}
    for device in jax.devices():
        kinds.setdefault(f"{device.platform} {device.device_kind}", []).append(device)
    return [
        f"{len(devices)} x {kind}, {_gigabytes(devices)}, on {_hosts(devices)} process(es)"
        for kind, devices in kinds.items()
    ]


def _gigabytes(devices: Sequence[Any]) -> str:
    size = device_memory(devices)
    return f"{size / 1e9:.1f} GB each{' (assumed)' if size == ASSUMED_MEMORY else ''}"


def _hosts(devices: Sequence[Any]) -> int:
    return len({device.process_index for device in devices})


def _mesh_rows(mesh: Any) -> list[str]:
    if mesh is None:
        return []
    roles = ("rows", "rows, and weights", "heads, feed-forward, vocabulary")
    return [
        f"{name:<8}{mesh.shape[name]:>4}   {role}" for name, role in zip(AXES, roles, strict=True)
    ]


def _weights(config: Any) -> list[str]:
    """A line a leaf, and what they are together on one device."""
    rows = [("leaf", "shape", "split over", "MB", "MB a device")]
    for path, (leaf, own) in _leaves(config).items():
        whole = leaf.size * jnp.dtype(config.dtype).itemsize
        here = (
            math.prod(own.shard_shape(leaf.shape)) * jnp.dtype(config.dtype).itemsize
            if own
            else whole
        )
        spec = _spec(own.spec if own else PartitionSpec())
        shape = str(list(leaf.shape))
        rows.append((path, shape, spec, f"{whole / 1e6:,.2f}", f"{here / 1e6:,.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    total = _bytes_per_device(config) / 1e9
    return [*lines, f"{total:.2f} GB in {config.dtype} on each device; prompts are whole on each"]


def _spec(spec: Any) -> str:
    parts = ["+".join(p) if isinstance(p, tuple) else p or "-" for p in spec]
    return " ".join(parts) if set(parts) - {"-"} else "whole on each"


def _leaves(config: Any) -> dict[str, tuple[Any, Any]]:
    """Shape and sharding of every leaf, by path."""
    shapes = jax.tree.leaves_with_path(nn.unbox(boxed_shapes(config)))
    places = [None] * len(shapes) if config.mesh is None else jax.tree.leaves(shardings(config))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (leaf, own)
        for (path, leaf), own in zip(shapes, places, strict=True)
    }


def _bytes_per_device(config: Any) -> int:
    sizes = (
        np.prod(own.shard_shape(leaf.shape) if own else leaf.shape)
        for leaf, own in _leaves(config).values()
    )
    return int(sum(sizes)) * jnp.dtype(config.dtype).itemsize
