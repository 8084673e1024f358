"""A sweep by successive halving against all its candidates trained to the end, one by one.

Both are `prompt-jax sweep` on the embedded sentiment task over the same 16 candidates, in one
process; the second one has one slot and drops nobody. Times are of training and of scoring on
validation, without the tests at the end, which both have once.

    python benchmarks/sweep_vs_runs.py --out runs/sweep_vs_runs
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

from prompt_jax.config import Config, SweepConfig, TrainConfig
from prompt_jax.experiment import sweep
from prompt_jax.runtime import prepare

SWEEP = SweepConfig(
    learning_rates=(0.1, 0.3, 1.0), inits=("vocab", "class_labels", "random"), lengths=(5, 20, 50)
)
WAYS = {
    "halving, four at once": SWEEP,
    "all to the end, one by one": dataclasses.replace(SWEEP, how="full", slots=1),
}


def main():
    """Prints time and winner of both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/sweep_vs_runs")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    prepare()
    seconds = {}
    for name, own in WAYS.items():
        out = str(Path(options.out) / own.how)
        config = Config(out=out, train=TrainConfig(steps=options.steps))
        begin, trained = time.perf_counter(), 0.0

        def say(line, begin=begin):
            nonlocal trained
            if line.startswith("candidate"):
                trained = time.perf_counter() - begin

        sweep(config, own, overwrite=True, say=say)
        seconds[name] = trained
        found = json.loads((Path(out) / "sweep.json").read_text())
        head, best = found["candidates"][:2]
        shown = ", ".join(f"{k} {v}" for k, v in zip(head, best, strict=True))
        print(f"{name}: {trained:.0f} s; best: {shown}", flush=True)
    first, second = seconds.values()
    print(f"ratio {first / second:.2f}")


if __name__ == "__main__":
    main()
