"""What a process settles before JAX starts: its devices, compiled programs, memory that is kept."""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prompt_jax.config import DistributedConfig
from prompt_jax.disk import user_cache

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
LATER = 10
"""How much nicer threads that compile are than others, where both want a core: a tenth as much."""
CPU_SECONDS = 0.1
"""Programs that took at least so long to compile are kept on disk."""
CPU_CACHE = 2**30
"""Bytes of all that are kept; those that were not used for the longest time give way."""
MEMORY_SECONDS = 10.0
"""Between two looks at how much memory the process holds."""


def prepare(distributed: DistributedConfig | None = None) -> None:
    """Settles all three, and joins other processes; what a program does before it uses JAX.

    A second run finds its programs compiled, and a step on CPU finds its memory mapped.
    """
    quiet()
    import jax

    flags: Any = jax.config  # Which has its attributes at run time only.
    # Where programs run on an accelerator, the host's memory is that of the tokenizer's threads.
    if flags.jax_platforms == "cpu":
        keep_memory()
    if distributed is not None:
        from prompt_jax.processes import join

        join(distributed)
    if not flags.jax_compilation_cache_dir:
        keep_programs()


def keep_programs() -> None:
    """Keeps compiled programs in the user's folder of caches, where that can be written."""
    import jax

    on_cpu = jax.default_backend() == "cpu"
    # Programs for a CPU use all instructions that it has, and would crash one that has fewer.
    folder = user_cache("xla") / _cpu() if on_cpu else user_cache("xla")
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):  # JAX would warn of each program.
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if on_cpu:
        _remove_incomplete(folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", CPU_SECONDS)
        # With a limit, JAX also locks the folder: no process reads what another one is writing.
        jax.config.update("jax_compilation_cache_max_size", CPU_CACHE)


def _remove_incomplete(folder: Path) -> None:
    """Removes what a process left that was killed while it wrote.

    JAX writes a program and then when it was used; without the latter it keeps no more programs.
    """
    for program in folder.glob("*-cache"):
        if not program.with_name(f"{program.name.removesuffix('-cache')}-atime").exists():
            program.unlink(missing_ok=True)


@contextlib.contextmanager
def without_kept_programs() -> Iterator[None]:
    """Compiles without a look at the disk, where JAX cannot read programs for devices elsewhere."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    flags: Any = jax.config
    cache = flags.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)
        compilation_cache.reset_cache()


def compile_later() -> None:
    """Gives the threads in which XLA compiles for the CPU a lower priority, on Linux.

    What a server answers meanwhile shares the cores with them, and would take twice as long. To be
    called before anything is compiled.
    """
    import jax

    # On a GPU the threads that start here also wait for what runs.
    if not sys.platform.startswith("linux") or jax.default_backend() != "cpu":
        return
    # XLA has no name for these threads. Those that run programs are there once there are devices,
    # and those that compile begin with the first program.
    others = set(os.listdir("/proc/self/task"))
    jax.jit(lambda x: x + 1).lower(1.0).compile()
    priority = min(os.getpriority(os.PRIO_PROCESS, 0) + LATER, 19)
    for thread in set(os.listdir("/proc/self/task")) - others:
        os.setpriority(os.PRIO_PROCESS, int(thread), priority)


def _cpu() -> str:
    """A name of the kind of this machine's CPU."""
    described = [platform.machine(), platform.processor()]
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = ("model name", "flags", "Features")
        lines = information.read_text().splitlines()
        described += sorted({line for line in lines if line.startswith(names)})
    return "cpu-" + hashlib.sha256("\n".join(described).encode()).hexdigest()[:12]


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


@functools.cache  # Once a process: it starts a thread.
def keep_memory() -> bool:
    """Keeps freed memory in the process, where the C library is glibc; whether it is.

    XLA on CPU asks for all temporary memory of a program at every call and frees it behind. glibc
    hands large pieces back to the system, so every training step would touch gigabytes of fresh
    pages: a tenth of its time (benchmarks/train_step_vs_peft.py). Above half of the machine's
    memory it is given back, see `give_back`.

    All threads then share one arena and wait for its lock: a tokenizer with threads of its own
    takes 1.5 times as long as with one, which it gets unless `TOKENIZERS_PARALLELISM` is set.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena, since the others may not grow and map large pieces all the same.
    kept = all([mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1)])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    threading.Thread(target=_watch_memory, name="prompt_jax.memory", daemon=True).start()
    return kept


def give_back(limit: int) -> bool:
    """Gives freed memory back to the system where the process holds more than `limit` bytes.

    The temporary memory of a program is one piece: a longer batch finds no room in what a shorter
    one has left, and programs of several lengths together keep several times what each needs.

    Returns:
      Whether it held more.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    if pages * os.sysconf("SC_PAGE_SIZE") <= limit:
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


def _watch_memory() -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    container = Path("/sys/fs/cgroup/memory.max")
    bound = container.read_text().strip() if container.exists() else "max"
    if bound.isdecimal():  # A container may have less than its machine.
        memory = min(memory, int(bound))
    while True:
        time.sleep(MEMORY_SECONDS)
        give_back(memory // 2)
