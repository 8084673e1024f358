"""Devices to compile for: those of a TPU topology, by libtpu and with no TPU, or local ones."""

import contextlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax

from prompt_jax.config import InputError, choose
from prompt_jax.runtime import without_kept_programs
from prompt_jax.sharding import Device, memory_limit

GIB = 2**30


class Chip(NamedTuple):
    """What a device can do, by its maker's data sheet."""

    name: str
    flops: float
    """bfloat16 operations a second."""
    bandwidth: float
    """Bytes a second from its memory."""
    link: float
    """Bytes a second to a neighbour, one way; of a GPU to all others, which a switch joins."""
    memory: float
    """GiB that a program may use, as libtpu gives it out; of a GPU what JAX takes of it by
    default, three quarters."""
    clock: float = 0.0
    """Cycles a second: bfloat16 operations over those of a cycle. None is needed of a GPU, whose
    compiler does not estimate."""


# https://cloud.google.com/tpu/docs/system-architecture-tpu-vm
CHIPS = {
    "TPU v4": Chip("TPU v4", 275e12, 1228e9, 50e9, 30.75, 1.05e9),
    "TPU v5 lite": Chip("TPU v5e", 197e12, 819e9, 50e9, 15.75, 1.503e9),
    "TPU v5": Chip("TPU v5p", 459e12, 2765e9, 100e9, 95.73, 1.75e9),
    "TPU v6 lite": Chip("TPU v6e", 918e12, 1640e9, 112e9, 31.24, 1.75e9),
    "NVIDIA A100-SXM4-80GB": Chip("A100 80 GB", 312e12, 2039e9, 300e9, 59.3),
    "NVIDIA H100 80GB HBM3": Chip("H100", 989e12, 3350e9, 450e9, 59.3),
    "NVIDIA H200": Chip("H200", 989e12, 4800e9, 450e9, 104.8),
}
_HOST = (1, 1, 1)
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
TOPOLOGIES: dict[str, tuple[str, tuple[int, ...] | None]] = {
    "v4-8": ("v4:2x2x1", None),
    "v4-16": ("v4:2x2x2", None),
    "v4-32": ("v4:2x2x4", None),
    "v5e-1": ("v5e:1x1", _HOST),
    "v5e-4": ("v5e:2x2", None),
    "v5e-8": ("v5e:2x4", None),
    "v5e-16": ("v5e:4x4", None),
    "v5e-32": ("v5e:4x8", None),
    "v5e-64": ("v5e:8x8", None),
    "v5e-256": ("v5e:16x16", None),
    "v5p-8": ("v5p:2x2x1", None),
    "v5p-16": ("v5p:2x2x2", None),
    "v5p-32": ("v5p:2x2x4", None),
    "v6e-1": ("v6e:1x1", _HOST),
    "v6e-4": ("v6e:2x2", None),
    "v6e-8": ("v6e:2x4", None),
    "v6e-16": ("v6e:4x4", None),
    "v6e-64": ("v6e:8x8", None),
    "v6e-256": ("v6e:16x16", None),
}
"""Names of slices as Google Cloud sells them, and what libtpu calls them."""


def devices_of(topology: str | None) -> list[Device]:
    """The devices of a topology such as `v5e:2x2` or `v5e-4`; None takes local devices."""
    if topology is None:
        return jax.devices()
    hosts = dict(TOPOLOGIES.values())
    if ":" not in topology:
        choose("topology", topology, TOPOLOGIES)
    name, host = TOPOLOGIES.get(topology, (topology, hosts.get(topology)))
    options: dict[str, object] = {} if host is None else {"chips_per_host_bounds": host}
    if name.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # Both cores of a chip are one device, as in JAX.
    if jax.default_backend() != "tpu":
        # Or libtpu asks a server that only Google's machines have, and lets in one process.
        for key, value in _NO_TPU.items():
            # What the user has set goes before.
            os.environ.setdefault(key, value)
    # Only here: planning for the devices at hand needs neither this module nor libtpu.
    from jax.experimental import topologies

    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except RuntimeError as error:
        raise InputError(_why_not(topology, str(error))) from error
    return list(description.devices)


def compile_for(
    devices: Sequence[Device],
    lowered: jax.stages.Lowered,
    options: dict[str, str | bool] | None = None,
) -> jax.stages.Compiled:
    """A program compiled for devices of `devices_of`, with options of the compiler.

    JAX writes a program for devices elsewhere to its cache on disk, but cannot read it again.
    """
    here = devices[0] in jax.devices()
    with contextlib.nullcontext() if here else without_kept_programs():
        return lowered.compile(compiler_options=options)


def _why_not(topology: str, error: str) -> str:
    if "not installed" in error:
        return f'planning for {topology} needs libtpu: pip install "prompt-jax[plan]"'
    return (
        f"libtpu knows no topology {topology!r} ({error.splitlines()[0]}); allowed: "
        f"{', '.join(TOPOLOGIES)}, or a kind and its grid such as v5e:2x4"
    )


def limit_of(device: Device) -> float | None:
    """GiB that a program may use; None of a device that does not tell and is not in the table."""
    if device in jax.devices():
        # What the user lets JAX take of a GPU (XLA_PYTHON_CLIENT_MEM_FRACTION), no table knows.
        limit = memory_limit(jax.devices())
        if limit is not None:
            return limit / GIB
    chip = chip_of(device)
    return None if chip is None else chip.memory


def links_of(devices: Sequence[Device]) -> float:
    """Bytes a second that a device of a kind in the table gets from its neighbours together.

    A TPU has one neighbour along an axis of two chips, and two along a longer one.
    """
    link, places = CHIPS[devices[0].device_kind].link, getattr(devices[0], "coords", None)
    if places is None:
        return link
    axes = zip(*(device.coords for device in devices), strict=True)
    return link * max(1, sum(min(len(set(axis)) - 1, 2) for axis in axes))


def chip_of(device: Device) -> Chip | None:
    """What a device can do; None of a kind that is not in the table, such as a CPU."""
    return CHIPS.get(device.device_kind)
