"""What a frozen model in eight bits costs: the same prompts in front of it, and its size.

python benchmarks/frozen_in_eight_bits.py runs/sentiment [runs/...]
"""

import argparse

import jax

from prompt_jax.backbones.quantised import LIMITS
from prompt_jax.cli.arguments import task_of
from prompt_jax.config import Config, EvalConfig
from prompt_jax.experiment import TUNED, evaluate_prompt
from prompt_jax.prompts import load_prompt
from prompt_jax.weights import load_backbone


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="+", help="folders of prompts or of runs")
    arguments = parser.parse_args()
    prompts = {path: load_prompt(path) for path in arguments.prompts}
    sizes = {}
    print("| prompt | weights | GB | " + "set | score | difference |\n|---|---|---:|---|---:|---:|")
    for path, prompt in prompts.items():
        whole = {}
        for dtype in ("float32", *LIMITS):
            backbone = load_backbone(prompt.backbone, dtype=dtype)
            sizes[dtype] = sum(leaf.nbytes for leaf in jax.tree.leaves(backbone.params))
            data, task = task_of(prompt)
            config = Config(backbone=backbone.name, data=data, task=task, eval=EvalConfig())
            for name, metrics in evaluate_prompt(config, prompt, backbone)[TUNED].items():
                score = next(iter(metrics.values()))
                whole.setdefault(name, score)
                share = f"{sizes[dtype] / 1e9:.3f} ({sizes[dtype] / sizes['float32']:.2f} x)"
                print(f"| {path} | {dtype} | {share} | {name} | {score:.3f} | "
                      f"{score - whole[name]:+.3f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
