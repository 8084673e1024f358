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
from jax.sharding import NamedSharding, PartitionSpec

from prompt_jax.backbones import ModelConfig, boxed_shapes, shardings
from prompt_jax.sharding import ASSUMED_MEMORY, AXES, ROOM, Device, describe, device_memory
from prompt_jax.trees import Mesh

PACKAGES = ("prompt-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers")
ACCELERATORS = {
    "/dev/nvidia0": 'an NVIDIA GPU: pip install "prompt-jax[cuda]"',
    "/dev/accel0": 'a TPU: pip install "prompt-jax[tpu]"',
    "/dev/vfio/0": 'a TPU: pip install "prompt-jax[tpu]"',
}
"""Where a device shows itself to the system; JAX may lack the plugin for it."""


def examine(config: ModelConfig) -> str:
    """The report of `prompt-jax doctor`.

    Args:
      config: that of a backbone, on the mesh that it would have.
    """
    parts = {
        "versions": _versions(),
        "devices": _devices(),
        "mesh": [describe(config.mesh), *_mesh_rows(config.mesh)],
        "weights": _weights(config),
        "to look at": mistakes(config) or ["nothing"],
    }
    return "\n\n".join(f"{name}\n" + "\n".join(f"  {x}" for x in p) for name, p in parts.items())


def draw(config: ModelConfig) -> None:
    """Prints which device holds which part of the embedding table."""
    leaf, sharding = _leaves(config)["embedding"]
    if sharding is not None:
        print("\nembedding [V, D]")
        jax.debug.visualize_sharding(leaf.shape, sharding)


def mistakes(config: ModelConfig) -> list[str]:
    """What would run, and not as it was meant."""
    mesh, kind = config.mesh, jax.default_backend()
    used = 1 if mesh is None else mesh.size
    lines = []
    if kind == "cpu":
        lines += [
            f"JAX sees no {name}" for path, name in ACCELERATORS.items() if Path(path).exists()
        ]
    if used < jax.device_count():
        lines.append(f"{jax.device_count() - used} of {jax.device_count()} devices are idle")
    if kind == "cpu" and jax.device_count() > 1:
        lines.append("these CPU devices are fake: good for tests, slower than one for work")
    flags: Any = jax.config  # Which has its attributes at run time only.
    if flags.jax_enable_x64:
        lines.append("jax_enable_x64 is on: some of the arithmetic is in float64, and slow")
    if flags.jax_disable_jit:
        lines.append("jax_disable_jit is on: nothing is compiled")
    if mesh is not None and mesh.shape["data"] == 1 and mesh.shape["fsdp"] == 1:
        lines.append("rows are not shared out: larger batches need mesh.data or mesh.fsdp")
    size, room = _bytes_per_device(config), device_memory(jax.local_devices())
    if size > ROOM * room:
        lines.append(
            f"weights take {size / 1e9:.1f} of {room / 1e9:.1f} GB of a device: take more devices "
            "(mesh.fsdp auto, mesh.tensor auto) or frozen.dtype bfloat16"
        )
    return lines + _misfits(config)


def _misfits(config: ModelConfig) -> list[str]:
    """Axes that the mesh does not divide, and what is done instead."""
    if config.mesh is None:
        return []
    tensor, fsdp = config.mesh.shape["tensor"], config.mesh.shape["fsdp"]
    lines = []
    heads = getattr(config, "num_kv_heads", config.num_heads)
    if heads % tensor:
        lines.append(
            f"{heads} heads of keys on {tensor} devices of mesh.tensor: each computes them all; "
            f"a divisor of {heads} would share them"
        )
    if config.vocab_size % (tensor * fsdp):
        lines.append(
            f"a vocabulary of {config.vocab_size} on {tensor * fsdp} devices: the table is split "
            "along its width, and moved to split the logits"
        )
    return lines


def _versions() -> list[str]:
    rows = [f"{'python':<18}{platform.python_version()}"]
    for name in PACKAGES:
        try:
            rows.append(f"{name:<18}{importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            rows.append(f"{name:<18}not installed")
    return rows


def _devices() -> list[str]:
    kinds: dict[str, list[Device]] = {}
    for device in jax.devices():
        kinds.setdefault(f"{device.platform} {device.device_kind}", []).append(device)
    return [
        f"{len(devices)} x {kind}, {_gigabytes(devices)}, on {_hosts(devices)} process(es)"
        for kind, devices in kinds.items()
    ]


def _gigabytes(devices: Sequence[Device]) -> str:
    size = device_memory(devices)
    return f"{size / 1e9:.1f} GB each{' (assumed)' if size == ASSUMED_MEMORY else ''}"


def _hosts(devices: Sequence[Device]) -> int:
    return len({device.process_index for device in devices})


def _mesh_rows(mesh: Mesh | None) -> list[str]:
    if mesh is None:
        return []
    roles = ("rows", "rows, and weights", "heads, feed-forward, vocabulary")
    return [
        f"{name:<8}{mesh.shape[name]:>4}   {role}" for name, role in zip(AXES, roles, strict=True)
    ]


def _weights(config: ModelConfig) -> list[str]:
    """A line a leaf, and what they are together on one device."""
    rows = [("leaf", "shape", "split over", "MB", "MB a device")]
    width = jnp.dtype(config.dtype).itemsize / 1e6
    for path, (leaf, sharding) in _leaves(config).items():
        part = sharding.shard_shape(leaf.shape) if sharding else leaf.shape
        spec = _spec(sharding.spec if sharding else PartitionSpec())
        sizes = (f"{leaf.size * width:,.2f}", f"{math.prod(part) * width:,.2f}")
        rows.append((path, str(list(leaf.shape)), spec, *sizes))
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


def _spec(spec: PartitionSpec) -> str:
    parts = ["+".join(p) if isinstance(p, tuple) else p or "-" for p in spec]
    return " ".join(parts) if set(parts) - {"-"} else "whole on each"


def _leaves(config: ModelConfig) -> dict[str, tuple[jax.ShapeDtypeStruct, NamedSharding | None]]:
    """Shape and sharding of every leaf, by path; no sharding where one device has all."""
    shapes = jax.tree.leaves_with_path(nn.unbox(boxed_shapes(config)))
    places = [None] * len(shapes) if config.mesh is None else jax.tree.leaves(shardings(config))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (leaf, sharding)
        for (path, leaf), sharding in zip(shapes, places, strict=True)
    }


def _bytes_per_device(config: ModelConfig) -> int:
    # Shapes only: no weight is read, and the model may be larger than this machine.
    sizes = (
        math.prod(sharding.shard_shape(leaf.shape) if sharding else leaf.shape)
        for leaf, sharding in _leaves(config).values()
    )
    return int(sum(sizes)) * jnp.dtype(config.dtype).itemsize
