"""A sweep by successive halving against all of its candidates trained to the end, one by one.

Both try the same 16 candidates on the embedded sentiment task, in one process: rates x starts x
lengths. One by one, each candidate has a program of its own length, as a run of its own would, and
is scored on validation four times, of which the best counts. Times are of setting up,
compiling, training and scoring on validation; tests are left out on both sides.

    python benchmarks/sweep_vs_runs.py
"""

import argparse
import json
import time
from pathlib import Path

from prompt_jax.config import Config, SweepConfig, TrainConfig
from prompt_jax.experiment import load_data, sweep
from prompt_jax.experiment.members import Population
from prompt_jax.experiment.sweep import candidates
from prompt_jax.runtime import prepare
from prompt_jax.weights import load_backbone

SWEEP = SweepConfig(
    learning_rates=(0.1, 0.3, 1.0), inits=("vocab", "class_labels", "random"), lengths=(10, 20)
)


def swept(config):
    """Seconds until the last candidate was scored, and the winner in words."""
    begin, last = time.perf_counter(), 0.0

    def say(line):
        nonlocal last
        if line.startswith("candidate"):
            last = time.perf_counter() - begin

    sweep(config, SWEEP, overwrite=True, say=say)
    found = json.loads((Path(config.out) / "sweep.json").read_text())
    head, best = found["candidates"][:2]
    return last, ", ".join(f"{name} {value}" for name, value in zip(head, best, strict=True))


def alone(config, backbone, data):
    """Seconds of a run of its own, and its best score."""
    begin, best = time.perf_counter(), 0.0
    member = Population([config], backbone, [data])
    for _ in range(0, config.train.steps, config.train.eval_every):
        member.advance([0], config.train.eval_every, lambda *_: None, lambda: True)
        best = max(best, member.judge(0).score)
    return time.perf_counter() - begin, best


def main():
    """Prints time and best score of both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/sweep_vs_runs")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    prepare()
    config = Config(
        out=options.out, train=TrainConfig(steps=options.steps, eval_every=options.steps // 4)
    )
    together, best = swept(config)
    print(f"halving, four at once: {together:.0f} s; best: {best}", flush=True)
    backbone, data = load_backbone("embedded"), load_data(config)
    total = 0.0
    for i, own in enumerate(candidates(config, SWEEP)):
        seconds, score = alone(own, backbone, data)
        total += seconds
        print(f"candidate {i} alone: {seconds:.0f} s, {score:.3f}", flush=True)
    print(f"one by one: {total:.0f} s; ratio {together / total:.2f}")


if __name__ == "__main__":
    main()
