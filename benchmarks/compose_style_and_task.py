"""Does a prompt for a style, put before a prompt for a task, change the style and keep the task?

The task is `embedded:sentiment`. The style is to answer in capitals, learned on another task,
`embedded:headline_satire`, whose label words are written NEWS and SATIRE. Each way to combine the
two is asked for the label among negative, positive, NEGATIVE and POSITIVE on the test rows; no
prompt has ever been trained on the last two. Printed are how often the label is right whatever its
letters, how often it is in capitals, and how often both.

    python benchmarks/compose_style_and_task.py
"""

import argparse
import csv
import tempfile
from pathlib import Path

from prompt_jax import compose
from prompt_jax.answers import answer
from prompt_jax.config import Config, DataConfig, TaskConfig, TrainConfig
from prompt_jax.data import load_rows
from prompt_jax.experiment import load_data, train
from prompt_jax.tasks import Task
from prompt_jax.weights import load_backbone


def in_capitals(folder):
    """The satire task with its targets in capitals: files of train and validation rows."""
    for split in ("train", "validation"):
        with open(folder / f"{split}.tsv", "w", newline="") as file:
            rows = csv.writer(file, delimiter="\t")
            rows.writerow(["input", "target"])
            for row in load_rows("embedded:headline_satire", split):
                rows.writerow([row["input"], row["target"].upper()])
    return DataConfig(task=f"file:{folder}/train.tsv", validation=f"file:{folder}/validation.tsv")


def main():
    """Trains both prompts, combines them and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    options = TrainConfig(steps=parser.parse_args().steps, eval_every=100)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quiet = {"say": lambda line: None}
        task = train(Config(out=f"{folder}/task", train=options), **quiet).prompt
        labels = TaskConfig(labels=("NEWS", "SATIRE"))
        config = Config(out=f"{folder}/style", data=in_capitals(folder), task=labels, train=options)
        style = train(config, **quiet).prompt
    combined = {
        "task": task,
        "style": style,
        "style, task (concat)": compose([style, task]),
        "task, style (concat)": compose([task, style]),
        "average": compose([style, task], "average"),
        "0.25 style + 0.75 task": compose([style, task], "weighted", [0.25, 0.75]),
    }
    backbone = load_backbone("embedded")
    config = Config()
    examples = load_data(config).tests["test"]
    lower = ("negative", "positive")
    asked = Task(
        name="either",
        source="{input}",
        target="{target}",
        labels=(*lower, *(label.upper() for label in lower)),
    )
    print("| prompt | right label | in capitals | both |\n|---|---:|---:|---:|")
    for name, prompt in combined.items():
        found = answer(
            backbone,
            prompt.injection(),
            [example.source for example in examples],
            asked,
            data=config.data,
            eval=config.eval,
        ).predictions
        right = [p.lower() == e.target for p, e in zip(found, examples, strict=True)]
        capitals = [p.isupper() for p in found]
        both = [r and c for r, c in zip(right, capitals, strict=True)]
        shares = (f"{sum(hits) / len(hits):.3f}" for hits in (right, capitals, both))
        print(f"| {name} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
