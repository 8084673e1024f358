"""Memory and time of a training run over many rows of jsonl, started twice.

The first start reads, checks and tokenises all rows; the second one finds that in the cache. Each
is a process of its own, with an empty cache before the first.

    python benchmarks/million_rows.py --rows 1000000
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOOD = "delight masterpiece charming great brilliant warm".split()
BAD = "bore mess dull awful tedious cold".split()
WORDS = (
    "the a film was of and story actor plot long short scene never always almost but not very "
    "quite rather director camera light end begin"
).split()
BATCHES = 1000


def write_rows(path: Path, count: int) -> None:
    """Rows of 6 to 36 words, one of which tells the label."""
    generator = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            good = generator.random() < 0.5
            words = generator.choices(WORDS, k=generator.randint(5, 35))
            words.insert(generator.randrange(len(words)), generator.choice(GOOD if good else BAD))
            row = {"text": " ".join(words), "label": "good" if good else "bad"}
            file.write(json.dumps(row) + "\n")


def memory(field: str) -> int:
    """A field of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) // 1024


def start(path: str, cache: str, started: float) -> None:
    """One start of a run, up to its first step, and the speed of its batches."""
    from prompt_jax.config import Config, DataConfig, TaskConfig, resolved
    from prompt_jax.data import prefetch
    from prompt_jax.experiment.members import Single
    from prompt_jax.experiment.splits import for_backbone, load_data
    from prompt_jax.experiment.training import load
    from prompt_jax.runtime import prepare

    def lap(title: str) -> None:
        seconds, processor = time.time() - started, time.process_time()
        print(f"  {title:12} {seconds:7.1f} s, {processor:7.1f} s of CPU", flush=True)

    prepare()
    config = resolved(
        Config(
            task=TaskConfig(source="sentence: {text}", target="{label}"),
            data=DataConfig(task=f"file:{path}", cache=cache),
        )
    )
    backbone = load(config)
    config = resolved(config, backbone.word_size)
    before = memory("VmRSS")
    lap("backbone")
    data = for_backbone(load_data(config), config, backbone)
    lap("rows")
    single = Single(config, backbone, [data])
    single.batches[0]
    lap("first batch")
    single.advance([0], 1, lambda step, values, last: None, lambda: True)
    lap("first step")
    begin = time.time()
    for _ in prefetch(single.batches, 0, BATCHES):
        pass
    speed = BATCHES / (time.time() - begin)
    print(f"  {speed:,.0f} batches of {config.train.batch_size} rows a second")
    print(f"  memory: {before} MiB with the backbone, {memory('VmHWM') - before} MiB more at peak")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "rows.jsonl", Path(folder) / "cache"
        write_rows(path, rows)
        print(f"{rows:,} rows of jsonl, {path.stat().st_size / 2**20:.0f} MiB")
        for title in ("first start", "second start"):
            print(title, flush=True)
            call = [sys.executable, __file__, "--start", str(path), str(cache), str(time.time())]
            subprocess.run(call, check=True)
        size = sum(file.stat().st_size for file in cache.rglob("*.npy"))
        print(f"cache: {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--start"]:
        start(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    else:
        main()
