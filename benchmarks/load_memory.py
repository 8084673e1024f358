"""How much host memory does loading a model take, beside the model itself?

    python benchmarks/load_memory.py [--preset t5_1_1_large] [--shards 3]
    python benchmarks/load_memory.py --dtype bfloat16 --mesh 1x4x2

Writes a random float32 checkpoint of safetensors shards into a temporary folder, loads it in a
fresh process and prints the ratio of peak memory to the size of the weights. The baseline, taken
after JAX has started, is subtracted. Needs free disk for the checkpoint: 3.1 GB for t5_1_1_large.
With a mesh, of data x fsdp x tensor, the weights go to so many fake CPU devices; they all are in
the memory of the one process, so what is measured is what loading takes beside the shards.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB.


def make(folder: Path, preset: str, shards: int) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    from prompt_jax.backbones.t5 import PRESETS, to_hugging_face
    from prompt_jax.weights.mapping import hugging_face_shapes

    wanted = hugging_face_shapes(PRESETS[preset])
    rng, places = np.random.default_rng(0), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(wanted.items())[i::shards])
        tensors = {n: 0.1 * rng.standard_normal(s, np.float32) for n, s in part.items()}
        save_file(tensors, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    config = to_hugging_face(PRESETS[preset], "float32")
    (folder / "config.json").write_text(json.dumps(config))


def load(folder: Path, dtype: str, mesh: str) -> None:
    import jax

    from prompt_jax.config import MeshConfig
    from prompt_jax.weights import load_backbone

    jax.block_until_ready(jax.numpy.ones(()))
    data, fsdp, tensor = map(int, mesh.split("x"))
    config = MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
    baseline, start = peak_bytes(), time.perf_counter()
    backbone = load_backbone(folder, dtype=dtype, mesh=config)
    seconds, peak = time.perf_counter() - start, peak_bytes()
    leaves = jax.tree.leaves(backbone.params)
    size = sum(leaf.nbytes for leaf in leaves)
    print(f"parameters         {sum(leaf.size for leaf in leaves):>14,}")
    print(f"size in memory     {size / 1e6:>14,.0f} MB")
    print(f"baseline           {baseline / 1e6:>14,.0f} MB")
    print(f"peak               {peak / 1e6:>14,.0f} MB")
    read = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    print(f"seconds            {seconds:>14,.1f}")
    print(f"GB/s               {read / seconds / 1e9:>14.2f}")
    print(f"ratio              {(peak - baseline) / size:>14.3f}   (peak - baseline) / size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="t5_1_1_large")
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--mesh", default="1x1x1")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.make, options.preset, options.shards)
    elif options.load:
        load(options.load, options.dtype, options.mesh)
    else:
        # On Linux a process inherits its parent's peak, so the parent must stay small.
        again = [sys.executable, __file__, "--preset", options.preset]
        with tempfile.TemporaryDirectory() as folder:
            shards = ["--shards", str(options.shards)]
            subprocess.run([*again, *shards, "--make", folder], check=True)
            loading = ["--dtype", options.dtype, "--mesh", options.mesh, "--load", folder]
            devices = math.prod(map(int, options.mesh.split("x")))
            flags = f"--xla_force_host_platform_device_count={devices}"
            environment = {**os.environ, "XLA_FLAGS": flags}
            subprocess.run([*again, *loading], check=True, env=environment)


if __name__ == "__main__":
    main()
