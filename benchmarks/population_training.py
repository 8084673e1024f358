"""Examples per second of N prompts: trained together, one by one, and by PEFT one by one.

All three train 20 virtual tokens on the embedded backbone in float32 with AdamW, N members of 1 or
4 rows each, in one process and one after the other in every round, so that a change of the
machine's speed meets all. One by one is a step of one member, as often as there are members; so is
PEFT. Ratios are taken round by round, and their medians printed.

    pip install "prompt-jax[parity]"
    python benchmarks/population_training.py --rounds 9
"""

import argparse
import statistics
import time
import warnings

import jax
import numpy as np
import torch
from peft import PromptTuningConfig as PeftConfig
from peft import get_peft_model
from transformers import T5ForConditionalGeneration

from prompt_jax.config import TrainConfig
from prompt_jax.data import Batch
from prompt_jax.losses import loss_fn
from prompt_jax.methods import PromptTuningConfig, init
from prompt_jax.population import compile_population_step, joined, members_of, stack
from prompt_jax.runtime import prepare
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
    trees = [init(METHOD, backbone, jax.random.key(i)) for i in range(members)]
    states = stack([start(tree, TRAIN) for tree in trees])
    own = members_of([TRAIN] * members, [METHOD] * members, VIRTUAL)
    step, frozen = compile_population_step(loss_fn(METHOD, backbone), TRAIN), backbone.unstacked()
    data = joined([batch_of(rows, i) for i in range(members)])

    def run():
        nonlocal states
        states, metrics = step(states, frozen, data, own)
        return jax.block_until_ready(metrics)

    return run


def alone(backbone, rows):
    """A closure that runs one step of one member and waits for it."""
    state = start(init(METHOD, backbone, jax.random.key(0)), TRAIN)
    step, frozen = compile_step(loss_fn(METHOD, backbone), TRAIN), backbone.unstacked()
    data = batch_of(rows, 0)

    def run():
        nonlocal state
        state, metrics = step(state, frozen, data)
        return jax.block_until_ready(metrics)

    return run


def theirs(folder, rows):
    """A closure that runs one step of PEFT."""
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
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    prepare()  # As the command line does; it serves all sides.
    backbone, folder = load_backbone("embedded"), locate("embedded", None, None)
    print(f"jax {jax.__version__}, torch {torch.__version__}, {jax.devices()[0].device_kind}")
    print("rows  members   together ex/s   one by one   PEFT   over one by one   over PEFT")
    for rows in ROWS:
        one, peft = alone(backbone, rows), theirs(folder, rows)
        for members in MEMBERS:
            all_ = together(backbone, members, rows)
            times = min(members, 8)  # A step costs the same whichever member's it is.
            for run in (all_, one, peft, all_, one, peft):
                run()
            rounds = []
            for _ in range(options.rounds):
                all_()  # What comes first after a rest is slow, whoever it is.
                found = (seconds(all_), seconds(one, times), seconds(peft, times))
                time.sleep(REST)
                rounds.append((found[0], *(t * members / times for t in found[1:])))
            rates = [members * rows / statistics.median(side) for side in zip(*rounds, strict=True)]
            over = [statistics.median(r[i] / r[0] for r in rounds) for i in (1, 2)]
            print(
                f"{rows:4d} {members:8d} {rates[0]:15.1f} {rates[1]:12.1f} {rates[2]:6.1f} "
                f"{over[0]:17.2f} {over[1]:11.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
