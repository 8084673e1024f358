"""What a frozen model in few bits costs: the same prompts in front of it, and its size.

python benchmarks/frozen_in_few_bits.py runs/sentiment [runs/...] [--rows 500]

Validation and test rows are scored together. A difference has the standard error of its mean over
rows, each compared with itself in front of float32; metrics of a whole corpus have none.
"""

import argparse

import jax
import numpy as np

from prompt_jax.backbones.quantised import LIMITS, bytes_of
from prompt_jax.cli.arguments import task_of
from prompt_jax.config import Config
from prompt_jax.evaluate import evaluate
from prompt_jax.experiment.splits import load_mixture
from prompt_jax.prompts import load_prompt
from prompt_jax.weights import load_backbone


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="+", help="folders of prompts or of runs")
    parser.add_argument("--rows", type=int, help="at most; else all of validation and test")
    arguments = parser.parse_args()
    print("| prompt | rows | weights | size | metric | score | difference | same answers |")
    print("|---|---:|---|---:|---|---:|---:|---:|")
    for path in arguments.prompts:
        prompt, whole = load_prompt(path), None
        data, task = task_of(prompt)
        config = Config(backbone=prompt.backbone, data=data, task=task)
        loaded = load_mixture(config)[0]
        rows = [*loaded.validation, *(row for test in loaded.tests.values() for row in test)]
        rows = rows[: arguments.rows]
        for dtype in ("float32", *LIMITS):
            backbone = load_backbone(prompt.backbone, dtype=dtype)
            size = sum(map(bytes_of, jax.tree.leaves(backbone.params)))
            found = evaluate(
                *(backbone, prompt.injection(), rows, loaded.task),
                data=config.data, eval=config.eval,
            )  # fmt: skip
            metric, score = next(iter(found.metrics.items()))
            whole = whole or (size, score, found.predictions)
            same = np.mean([a == b for a, b in zip(found.predictions, whole[2], strict=True)])
            error = paired(rows, found.predictions, whole[2]) if loaded.task.choices else ""
            sizes = f"{len(rows):,} | {dtype} | {size / whole[0]:.2f} x"
            change = f"{score - whole[1]:+.4f}{error}"
            print(
                f"| {path} | {sizes} | {metric} | {score:.3f} | {change} | {same:.3f} |", flush=True
            )


def paired(rows, ours, theirs):
    """The standard error of the difference in accuracy, rows being compared with themselves."""
    differences = [
        float(a in row.references) - float(b in row.references)
        for row, a, b in zip(rows, ours, theirs, strict=True)
    ]
    return f" ± {np.std(differences) / len(rows) ** 0.5:.4f}"


if __name__ == "__main__":
    main()
