"""Answers a large file on a Ray cluster, a shard a worker: `prompt-jax predict --shard i/n`.

    pip install "prompt-jax[ray]"
    python launch/ray_predict.py --shards 64 --gpus 1 --output answers \
        --prompt runs/x --input big.jsonl --eval.batch-size 64

Every flag that is not of this file is of `prompt-jax predict`. The input, the prompt and the folder
of the output have to be seen by every machine, at the same path. A shard that a lost machine leaves
unfinished goes on after its last whole line, and so does everything when it is started again.

Checked: on one machine with Ray of its own (tests/test_ray.py). Not run: no cluster was at hand.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray


def answer(row: dict[str, Any], *, shards: int, folder: str, flags: list[str]) -> dict[str, Any]:
    """One shard, in a process of its own, so that no device of the worker is held beyond it.

    Args:
      row: its number under `shard`.

    Raises:
      RuntimeError: `prompt-jax predict` did not end well; with what it said.
    """
    output = Path(folder, f"{row['shard']:05d}.jsonl")
    whole = output.with_suffix(".done")
    if not whole.exists():
        command = [sys.executable, "-m", "prompt_jax", "predict", *flags]
        command += ["--output", str(output), "--shard", f"{row['shard']}/{shards}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"shard {row['shard']}: {done.stderr[-2000:]}")
        whole.touch()
    with output.open(encoding="utf-8") as lines:
        return {**row, "answers": sum(1 for _ in lines)}


def main(arguments: list[str] | None = None) -> None:
    """Answers all shards and prints how many answers each has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, required=True, help="parts of the input")
    parser.add_argument("--output", required=True, help="folder of a .jsonl for each shard")
    parser.add_argument("--cpus", type=float, default=1, help="of a shard")
    parser.add_argument("--gpus", type=float, default=0, help="of a shard")
    own, flags = parser.parse_known_args(arguments)
    if own.shards < 1:
        parser.error(f"--shards is at least 1, got {own.shards}")
    folder = Path(own.output).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"shard": shard} for shard in range(own.shards)]
    given = {"shards": own.shards, "folder": str(folder), "flags": flags}
    each = ray.data.from_items(rows, override_num_blocks=own.shards)
    answered = each.map(answer, fn_kwargs=given, num_cpus=own.cpus, num_gpus=own.gpus)
    found = sorted(answered.take_all(), key=lambda row: row["shard"])
    for row in found:
        print(f"{folder / format(row['shard'], '05d')}.jsonl: {row['answers']} answers")
    print(f"{sum(row['answers'] for row in found)} answers")


if __name__ == "__main__":
    main()
