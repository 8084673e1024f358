"""What libtpu said of programs that it has compiled: it takes minutes for one of a large model."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from prompt_jax import disk
from prompt_jax.plan.compiled import Traffic
from prompt_jax.processes import code_digest
from prompt_jax.sharding import Device

FLAGS = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")
"""What changes a compiled program from outside."""


class Outcome(NamedTuple):
    """What a compiler tells of a program."""

    needed: float | None
    """GiB that it asked for in vain; None of a program that fits."""
    temporaries: float = 0.0
    """GiB."""
    code: float = 0.0
    """GiB."""
    traffic: Sequence[Traffic] = ()
    cycles: dict[str, int] | None = None
    """By part of the program; None and none are of a compiler that does not estimate."""


def compiled_once(
    lowered: jax.stages.Lowered, devices: Sequence[Device], compiled: Callable[[], Outcome]
) -> Outcome:
    """The outcome of a program for TPUs, from the folder of outcomes if it is there.

    The folder is `~/.cache/prompt_jax/plans` (XDG_CACHE_HOME), and may be removed at any time.
    Programs of other devices are compiled every time.
    """
    if devices[0].platform != "tpu":
        return compiled()
    path = disk.user_cache("plans") / f"{_name(lowered, devices)}.json"
    with contextlib.suppress(OSError, ValueError):  # Not there, or damaged: compiled again.
        needed, temporaries, code, traffic, cycles = json.loads(path.read_text(encoding="utf-8"))
        return Outcome(needed, temporaries, code, [Traffic(*t) for t in traffic], cycles)
    outcome = compiled()
    with contextlib.suppress(OSError, disk.UnwritableError):
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.write(path, json.dumps(outcome))
    return outcome


def _name(lowered: jax.stages.Lowered, devices: Sequence[Device]) -> str:
    """The digest of all that a compiled program follows from."""
    parts = [
        code_digest(),
        jax.__version__,
        devices[0].client.platform_version,
        devices[0].device_kind,
        str([getattr(device, "coords", None) for device in devices]),
        *(os.environ.get(flag, "") for flag in FLAGS),
        lowered.as_text(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
