import subprocess
import sys

# Processes of their own: the settings are of a whole process.
CODE = """
import sys
from prompt_jax.runtime import keep_memory, prepare
print(keep_memory())
prepare()
import jax, jax.numpy as jnp
print(jax.config.jax_compilation_cache_dir)
print(float(jax.jit(jnp.sum)(jnp.ones((2048, 2048)))))
"""


def test_a_prepared_process_keeps_its_memory_and_computes():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    kept, cache, total = done.stdout.split()
    # glibc is asked on Linux only, and takes all three settings.
    assert kept in (("True",) if sys.platform == "linux" else ("False",))
    assert cache == "None"  # Programs for the CPU are not kept on disk.
    assert float(total) == 2048 * 2048
