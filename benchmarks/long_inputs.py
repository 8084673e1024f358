"""What a training step of long inputs holds, with attention whole and in chunks of queries.

python benchmarks/long_inputs.py [--backbone t5_1_1_base] [--lengths 2048 4096] [--chunk 256]
                                 [--topology v5e-1] [--seconds]

A step is compiled and not run, but for `--seconds`, which runs one of the devices at hand.
"""

import argparse
import time

import jax
import jax.numpy as jnp

from prompt_jax.config import BackboneConfig, Config, DataConfig, MeshConfig, TrainConfig
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.plan.chips import GIB, compile_for, devices_of
from prompt_jax.plan.programs import shape_of_backbone, train_program


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="t5_1_1_base")
    parser.add_argument("--lengths", nargs="+", type=int, default=[2048, 4096])
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--remat", default="full")
    parser.add_argument("--topology", help="a TPU to compile for; default the devices at hand")
    parser.add_argument("--seconds", action="store_true", help="also run a step")
    arguments = parser.parse_args()
    print(f"{arguments.backbone}, {arguments.rows} rows, remat {arguments.remat}, one device")
    print(
        "| positions | attention | temporaries, GiB | share | seconds |\n|---:|---|---:|---:|---:|"
    )
    for length in arguments.lengths:
        whole = None
        for chunk in (None, arguments.chunk):
            held, seconds = measured(arguments, length, chunk)
            whole = whole or held
            name = "whole" if chunk is None else f"{chunk} queries at a time"
            took = "" if seconds is None else f"{seconds:.1f}"
            share = f"{held / whole:.2f} x"
            print(f"| {length} | {name} | {held:.2f} | {share} | {took} |", flush=True)


def measured(arguments, length, chunk):
    """GiB that a step holds beside its arguments, and its seconds if it is to run."""
    config = Config(
        backbone=arguments.backbone,
        frozen=BackboneConfig(remat=arguments.remat, attention_chunk=chunk),
        mesh=MeshConfig(data=1),
        method=PromptTuningConfig(num_virtual_tokens=100, init="random"),
        data=DataConfig(
            max_source_length=length - 100, max_target_length=16, max_total_length=length
        ),
        train=TrainConfig(batch_size=arguments.rows),
    )
    devices = devices_of(arguments.topology)
    program = train_program(config, shape_of_backbone(config, devices), devices[0])
    compiled = compile_for(devices, program.function.lower(*program.arguments))
    held = compiled.memory_analysis().temp_size_in_bytes / GIB
    if not arguments.seconds:
        return held, None
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), program.arguments)
    begun = time.perf_counter()
    jax.block_until_ready(compiled(*ones))
    return held, time.perf_counter() - begun


if __name__ == "__main__":
    main()
