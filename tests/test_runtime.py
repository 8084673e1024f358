import subprocess
import sys

# A process of its own: the settings are of the whole process.
CODE = """
import resource
import sys
from prompt_jax.runtime import keep_memory
kept = "keep" in sys.argv and keep_memory()
import jax, jax.numpy as jnp
@jax.jit
def step(x):
    y = jnp.broadcast_to(x, (4096, 4096)) * jnp.arange(4096.0)[:, None]
    return jnp.sort(y, axis=1)[:, 0].sum()
for _ in range(3):
    step(jnp.ones((1, 1))).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step(jnp.ones((1, 1))).block_until_ready()
print(bool(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True
    )
    kept, count = done.stdout.split()
    return kept == "True", int(count)


def test_kept_memory_is_not_mapped_again_at_every_call():
    kept, count = faults("keep")
    if sys.platform == "linux" and kept:
        assert count < faults()[1] / 3
    else:
        assert not kept
