"""What a process settles before JAX starts: its devices, compiled programs, memory that is kept."""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from prompt_jax.config import DistributedConfig

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def prepare(distributed: DistributedConfig | None = None) -> None:
    """Settles the latter two, and joins other processes; what a program does before it uses JAX.

    A second run on an accelerator finds its programs compiled, and a step on CPU finds its memory
    mapped. Programs for the CPU are not kept: XLA has crashed while it read one back.
    """
    keep_memory()
    if distributed is not None:
        from prompt_jax.processes import join

        join(distributed)
    import jax

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prompt_jax" / "xla"
    flags: Any = jax.config  # Which has its attributes at run time only.
    if jax.default_backend() != "cpu" and not flags.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache))


def quiet() -> None:
    """Keeps warnings about what is not there, and not needed, out of a command's output.

    libtpu, with which `plan` compiles, prints some when JAX looks for chips on a machine that has
    none: where the CPU is all there is, JAX takes it at once. `JAX_PLATFORMS` is the user's, and
    JAX itself sets its platforms where it sees a TPU. Transformers, whose tokenizers are used, has
    one about PyTorch.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import jax

    # Every accelerator but the TPU comes as a plugin: then which one there is, JAX must find out.
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    flags: Any = jax.config
    if not (flags.jax_platforms or plugins or importlib.util.find_spec("jax_plugins")):
        jax.config.update("jax_platforms", "cpu")


def keep_memory() -> bool:
    """Keeps freed memory in the process, where the C library is glibc; whether it is.

    XLA on CPU asks for all temporary memory of a program at every call and frees it behind. glibc
    hands large pieces back to the system, so every training step would touch gigabytes of fresh
    pages: a tenth of its time (benchmarks/train_step_vs_peft.py).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena, since the others may not grow and map large pieces all the same.
    return all([mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1)])
