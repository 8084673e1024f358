import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from prompt_jax.runtime import keep_programs, quiet

# Processes of their own: the settings are of a whole process.
CODE = """
import os
from prompt_jax.runtime import keep_memory, prepare
prepare()
assert keep_memory.cache_info().currsize
print(keep_memory(), os.environ.get("TOKENIZERS_PARALLELISM"))
import jax, jax.numpy as jnp
print(jax.config.jax_compilation_cache_dir)
read = []
jax.monitoring.register_event_listener(lambda event, **_: read.append(event.endswith("cache_hits")))
x = jnp.arange(2048.0)
print(float(jax.jit(lambda x: jax.random.permutation(jax.random.key(0), x).sum())(x)), any(read))
"""


def test_a_second_process_reads_its_programs_and_both_keep_their_memory(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("TOKENIZERS_PARALLELISM", None)
    run = [sys.executable, "-c", CODE]
    for again in ("False", "True"):
        for folder in tmp_path.glob("prompt_jax/xla/*"):
            (folder / "jit_f-1234-cache").write_bytes(b"as far as it was written")
        done = subprocess.run(run, capture_output=True, text=True, check=True, env=environment)
        kept, threads, cache, total, read = done.stdout.split()
        # glibc is asked on Linux only, and takes all three settings.
        settings = ("True", "false") if sys.platform == "linux" else ("False", "None")
        assert (kept, threads) == settings
        assert Path(cache).parent == tmp_path / "prompt_jax" / "xla"
        assert (float(total), read) == (2048 * 2047 / 2, again)
        assert not list(Path(cache).glob("jit_f-1234*"))


def test_programs_are_not_kept_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        keep_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


LATER = """
import os
from prompt_jax.runtime import compile_later
usual = os.getpriority(os.PRIO_PROCESS, 0)
compile_later()
import jax, jax.numpy as jnp
x = jnp.ones((512, 512))

def spent():
    threads = os.listdir("/proc/self/task")
    later = [t for t in threads if os.getpriority(os.PRIO_PROCESS, int(t)) > usual]
    return sum(int(open(f"/proc/self/task/{t}/schedstat").read().split()[0]) for t in later)

before = spent()
program = jax.jit(lambda x: jnp.sort(jnp.tanh(x @ x)).sum()).lower(x).compile()
compiled = spent()
program(x).block_until_ready()
print(compiled - before, spent() - compiled)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_what_compiles_gives_way_to_what_runs():
    run = [sys.executable, "-c", LATER]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    compiling, running = map(int, done.stdout.split())
    assert compiling > 5_000_000 and running < compiling / 10  # Nanoseconds.


HOLES = """
from resource import getpagesize
import numpy as np
from prompt_jax.runtime import give_back, keep_memory
held = lambda: int(open("/proc/self/statm").read().split()[1]) * getpagesize() >> 20
keep_memory()
start, small = held(), []
for size in range(50, 90, 10):  # MiB, each larger than what the last has left.
    np.ones(size << 20, np.uint8)
    small.append(np.ones(1 << 16, np.uint8))
print(held() - start, give_back(4 << 40), give_back(1 << 20), held() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_in_holes_is_given_back():
    run = [sys.executable, "-c", HOLES]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    kept, below, above, left = done.stdout.split()
    assert int(kept) >= 80 and int(left) < 20
    assert (below, above) == ("False", "True")


QUIET = """
import importlib.util, os, sys
os.environ.pop("JAX_PLATFORMS", None)
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "torch" else find(name, *a)
from prompt_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_command_says_nothing_of_what_is_not_here(tiny_folder, tmp_path):
    """No TPU for libtpu, which may be installed, and no PyTorch for transformers."""
    np.save(tmp_path / "p.npy", np.ones((2, 16), np.float32))
    command = ["prompts", "inspect", str(tmp_path / "p.npy"), "--backbone", str(tiny_folder)]
    done = subprocess.run(
        [sys.executable, "-c", QUIET, *command], capture_output=True, text=True, check=True
    )
    assert done.stderr == "" and "Neighbours are not" in done.stdout


@pytest.mark.parametrize(
    ("platforms", "plugins", "left"),
    [
        (None, [], "cpu"),
        ("", [], "cpu"),
        (None, ["cuda"], None),
        ("tpu,cpu", [], "tpu,cpu"),  # As JAX sets them where it sees a chip.
        ("cuda", [], "cuda"),  # As a user does.
    ],
)
def test_only_a_machine_of_nothing_else_is_told_to_take_its_cpu(
    monkeypatch, platforms, plugins, left
):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        quiet()
        assert jax.config.jax_platforms == left
    finally:
        jax.config.update("jax_platforms", before)
