r"""Examples per second of N prompts: trained together, one by one, and by PEFT one by one.

All three train 20 virtual tokens on the embedded backbone in float32 with AdamW, N members of 1 or
4 rows each, in one process and one after the other in every round, so that a change of the
machine's speed meets all. One by one is a step of one member, as often as there are members; so is
PEFT. Ratios are taken round by round, and their medians printed.

    pip install "prompt-jax[parity]"
    python benchmarks/population_training.py --rounds 9

Over a model that devices share, without PEFT, which does not split a model:

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python benchmarks/population_training.py --mesh 2 2 2 --members 4 16 --rows 4
"""

import argparse
import statistics
import time
import warnings

import jax
import numpy as np

from prompt_jax.config import MeshConfig, TrainConfig
from prompt_jax.data import Batch
from prompt_jax.losses import loss_fn
from prompt_jax.methods import PromptTuningConfig, init
from prompt_jax.population import (
    check_members,
    compile_population_step,
    filled,
    joined,
    layout,
    members_of,
    stack,
)
from prompt_jax.runtime import prepare
from prompt_jax.sharding import AXES, describe, place_rows, put, replicate
from prompt_jax.train import compile_step, start
from prompt_jax.weights import load_backbone
from prompt_jax.weights.hub import locate

MEMBERS, ROWS = (1, 4, 16, 64), (1, 4)
REST = 0.3
"""Seconds for which torch's threads wait for more work, on cores that the next side needs."""
TEXT, TARGET, VIRTUAL = 36, 4, 20
METHOD = PromptTuningConfig(num_virtual_tokens=VIRTUAL)
TRAIN = TrainConfig(optimizer="adamw", learning_rate=1e-3)


def batch_of(rows, seed):
    """Rows of random words."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 16000, (rows, TEXT), np.int32)
    targets = rng.integers(2, 16000, (rows, TARGET), np.int32)
    return Batch(tokens, np.ones((rows, TEXT), bool), targets, np.ones((rows, TARGET), bool))


def together(backbone, members, rows):
    """A closure that runs one step of all members and waits for it."""
    mesh, count = backbone.mesh, filled(members, backbone.mesh)
    trees = [init(METHOD, backbone, jax.random.key(i)) for i in range(count)]
    states = stack([start(tree, TRAIN) for tree in trees])
    rates = members_of([TRAIN] * count, [METHOD] * count, VIRTUAL)
    loss, frozen = loss_fn(METHOD, backbone), backbone.unstacked()
    step = compile_population_step(loss, TRAIN, mesh)
    data = joined([batch_of(rows, i) for i in range(count)])
    if mesh is not None:
        place = layout(count, mesh)
        states, rates = (put(tree, place.members) for tree in (states, rates))
        data = put(data, place.rows)

    def run():
        nonlocal states
        states, metrics = step(states, frozen, data, rates)
        return jax.block_until_ready(metrics)

    return run


def alone(backbone, rows):
    """A closure that runs one step of one member and waits for it."""
    mesh = backbone.mesh
    state = replicate(start(init(METHOD, backbone, jax.random.key(0)), TRAIN), mesh)
    step, frozen = compile_step(loss_fn(METHOD, backbone), TRAIN, mesh), backbone.unstacked()
    data = place_rows(batch_of(rows, 0), mesh)

    def run():
        nonlocal state
        state, metrics = step(state, frozen, data)
        return jax.block_until_ready(metrics)

    return run


def by_peft(folder, rows):
    """A closure that runs one step of PEFT."""
    import torch
    from peft import PromptTuningConfig as PeftConfig
    from peft import get_peft_model
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(folder)
    config = PeftConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=VIRTUAL)
    model = get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    tokens = torch.randint(2, 16000, (rows, TEXT))
    mask, labels = torch.ones_like(tokens), torch.randint(2, 16000, (rows, TARGET))

    def run():
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        return float(loss)

    return run


def seconds(run, times=1):
    """Wall-clock seconds of so many calls."""
    begin = time.perf_counter()
    for _ in range(times):
        run()
    return time.perf_counter() - begin


def main():
    """Prints a row for every number of members and of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--members", type=int, nargs="*", default=MEMBERS)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--mesh", type=int, nargs=3, metavar=AXES)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    prepare()  # As the command line does; it serves all sides.
    mesh = MeshConfig(**dict(zip(AXES, options.mesh or (1, 1, 1), strict=True)))
    backbone = load_backbone("embedded", mesh=mesh)
    for rows in options.rows:
        check_members(rows, backbone.mesh)
    print(f"jax {jax.__version__}, {describe(backbone.mesh)}")
    # PEFT does not split a model.
    folder = None if backbone.mesh else locate("embedded", None, None)
    sides = ["one by one", *(["PEFT"] if folder else [])]
    print("rows  members   together ex/s", *(f"{side:>12}{'over it':>9}" for side in sides))
    for rows in options.rows:
        others = [alone(backbone, rows), *([by_peft(folder, rows)] if folder else [])]
        for members in options.members:
            population = together(backbone, members, rows)
            times = min(members, 8)  # A step costs the same whichever member's it is.
            for run in (population, *others) * 2:
                run()
            rounds = []
            for _ in range(options.rounds):
                population()  # What comes first after a rest is slow, whoever it is.
                measured = [seconds(population), *(seconds(run, times) for run in others)]
                time.sleep(REST)
                rounds.append((measured[0], *(t * members / times for t in measured[1:])))
            rates = [members * rows / statistics.median(side) for side in zip(*rounds, strict=True)]
            over = [statistics.median(r[i] / r[0] for r in rounds) for i in range(1, len(rates))]
            pairs = zip(rates[1:], over, strict=True)
            cells = (f"{rate:12.1f}{ratio:9.2f}" for rate, ratio in pairs)
            print(f"{rows:4d} {members:8d} {rates[0]:15.1f}", *cells, flush=True)


if __name__ == "__main__":
    main()
