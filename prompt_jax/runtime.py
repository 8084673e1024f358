"""What a process settles before JAX starts: compiled programs on disk, memory that is kept."""

import ctypes
import os
import sys
from pathlib import Path

from prompt_jax.config import DistributedConfig

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def prepare(distributed: DistributedConfig | None = None) -> None:
    """Settles both, and joins other processes; what a program does before it uses JAX.

    A second run on an accelerator finds its programs compiled, and a step on CPU finds its memory
    mapped. Programs for the CPU are not kept: XLA has crashed while it read one back.
    """
    keep_memory()
    if distributed is not None:
        from prompt_jax.processes import join

        join(distributed)
    import jax

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prompt_jax" / "xla"
    if jax.default_backend() != "cpu" and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache))


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
