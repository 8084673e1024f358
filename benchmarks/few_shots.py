"""Which prompt is kept where 16 rows of a label train it and 16 others judge it.

For three embedded tasks and five seeds: the step that is kept, the likeliest one, and accuracy and
log-likelihood on those few rows at every evaluation. A prompt of step 0 is untrained.

    python benchmarks/few_shots.py --shots 16 --seeds 5
"""

import argparse
import time

from prompt_jax.config import Config, DataConfig, TrainConfig, resolved
from prompt_jax.data import shots
from prompt_jax.experiment.members import Single
from prompt_jax.experiment.splits import for_backbone, load_data
from prompt_jax.experiment.training import load
from prompt_jax.runtime import prepare

TASKS = ("sentiment", "headline_satire", "gloss_category")
EVERY = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    prepare()
    train = TrainConfig(steps=options.steps, eval_examples=None)
    backbone = load(Config(train=train))
    untrained = 0
    for seed in range(options.seeds):
        for task in TASKS:
            began = time.monotonic()
            config = Config(
                data=DataConfig(task=f"embedded:{task}", seed=seed),
                train=TrainConfig(steps=options.steps, eval_examples=None, seed=seed),
            )
            config = resolved(config, backbone.word_size)
            data = load_data(config)
            # As --data.shots of a file that has no validation split.
            drawn, spared = shots(data.train, options.shots, data.task, seed, task, spare=True)
            data = data._replace(train=drawn, validation=spared, tests={})
            single = Single(config, backbone, [for_backbone(data, config, backbone)])
            judged = {0: single.judge(0)}
            for step in range(EVERY, options.steps + 1, EVERY):
                single.advance([0], EVERY, lambda step, values, last: None, lambda: True)
                judged[step] = single.judge(0)
            likeliest = max(judged, key=lambda step: judged[step].log_likelihood)
            kept = int(single.best.step)
            untrained += kept == 0
            print(f"{task} {seed}: {len(spared)} rows, kept {kept}, likeliest {likeliest}", end="")
            print(f", {time.monotonic() - began:.0f} s")
            for step, judgement in judged.items():
                print(
                    f"  {step:4} {judgement.score:.3f} {judgement.log_likelihood:.3f}", flush=True
                )
    print(f"{untrained} of {options.seeds * len(TASKS)} prompts that were kept are untrained")


if __name__ == "__main__":
    main()
