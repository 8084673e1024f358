"""What a training step of every T5 1.1 takes on six TPU slices, as two tables.

Each cell is a real compilation for a TPU that you do not have (half a minute on two cores, up to
two for XXL): 32 rows of 100 virtual tokens and 412 of text, 16 of target, bfloat16. A model that
does not fit one chip so is tried with eight-bit weights and eight rows.

    pip install "prompt-jax[plan]"
    python benchmarks/plan_table.py --models small base --slices v5e-1 v5e-4
"""

import argparse
import dataclasses

from prompt_jax.config import BackboneConfig, Config, DataConfig, MeshConfig, TrainConfig
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.plan import planned
from prompt_jax.report import markdown
from prompt_jax.runtime import prepare

MODELS = ("small", "base", "large", "xl", "xxl")
SLICES = ("v5e-1", "v5e-4", "v5e-8", "v4-8", "v5p-8", "v6e-8")


def cell(model, topology, remat):
    """The plan of a model on a slice, and a remark where it is not that of the others."""
    config = Config(
        backbone=f"t5_1_1_{model}",
        frozen=BackboneConfig(dtype="bfloat16", remat=remat),
        mesh=MeshConfig(data="auto", fsdp="auto", tensor="auto"),
        method=PromptTuningConfig(num_virtual_tokens=100),
        data=DataConfig(max_source_length=412, max_target_length=16),
        train=TrainConfig(batch_size=32),
    )
    made = planned(config, topology, programs=("train",))
    if made.fits:
        return made, ""
    small = dataclasses.replace(
        config,
        frozen=BackboneConfig(dtype="int8", remat=remat),
        train=TrainConfig(batch_size=8),
    )
    return planned(small, topology, programs=("train",)), ", int8, 8 rows"


def shown(made, remark):
    """GiB of a chip, the mesh and what is kept; seconds by the compiler's estimate."""
    remark = f", {made.config.frozen.remat}{remark}"
    mesh = " ".join(f"{name} {n}" for name, n in made.mesh.items() if n > 1)
    own = f" ({mesh}{remark})" if mesh else f" ({remark.strip(', ')})" if remark else ""
    memory = f"{made.needed:.2f}{own}" if made.fits else f"no: {made.needed:.1f}"
    seconds = [cost.seconds for cost in made.costs if cost.seconds is not None]
    return memory, f"{sum(seconds):.3f}" if seconds and made.fits else ""


def main():
    """Prints every cell as it is made, then both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--slices", nargs="*", default=SLICES)
    parser.add_argument("--remat", choices=("none", "minimal", "full", "auto"), default="full")
    options = parser.parse_args()
    prepare()
    tables = [[["GiB a chip", *options.slices]], [["seconds, as estimated", *options.slices]]]
    for model in options.models:
        rows = [[model], [model]]
        for topology in options.slices:
            cells = shown(*cell(model, topology, options.remat))
            print(f"{model} {topology}: {cells}", flush=True)
            for row, text in zip(rows, cells, strict=True):
                row.append(text)
        for table, row in zip(tables, rows, strict=True):
            table.append(row)
    for table in tables:
        print(f"\n{markdown(table)}")


if __name__ == "__main__":
    main()
