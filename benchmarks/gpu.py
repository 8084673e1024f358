"""Prompt tuning of T5 on one GPU: a training step of prompt_jax against PEFT.

PEFT runs eagerly, with gradient checkpointing, and compiled. Each measurement is another process,
as JAX and torch would share the card's memory. The most telling ones come first: when the time is
used up, the others are named and left out. Weights are random, so that nothing is downloaded.

    pip install "prompt-jax[cuda,parity]"
    python benchmarks/gpu.py --out gpu.jsonl --minutes 9
    python benchmarks/gpu.py --tiny   # every measurement in small, on a CPU too
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

TEXT, VIRTUAL, TARGET = 412, 100, 16
"""Tokens of a row."""
WARM, TIMED = 3, 10
"""Steps before and while time is taken."""
CEILING = (16384, 4096, 10240)
"""Of the product whose speed is the card's: the tokens of 32 rows through XXL's feed-forward."""


class Job(NamedTuple):
    """One measurement."""

    side: str
    """`jax`, `peft` or `ceiling`."""
    size: str = ""
    rows: int = 0
    options: tuple[str, ...] = ()
    """Of jax, `remat=NAME` and `dtype=NAME`; of peft, `checkpoint` and `compile`."""
    seconds: int = 90
    """What it may take."""


JOBS = (
    Job("ceiling", seconds=40),
    Job("jax", "t5_1_1_xl", 32, ("remat=full",)),
    Job("jax", "t5_1_1_xl", 32, ("remat=minimal",)),
    Job("peft", "t5_1_1_xl", 32, ("checkpoint",), 60),
    Job("peft", "t5_1_1_xl", 16, (), 60),
    Job("jax", "t5_1_1_xl", 16, ("remat=none",)),
    Job("peft", "t5_1_1_xl", 16, ("compile",), 120),
    Job("jax", "t5_1_1_xxl", 16, ("remat=full",)),
    Job("peft", "t5_1_1_xxl", 16, ("checkpoint",), 70),
    Job("jax", "t5_1_1_xxl", 16, ("remat=full", "dtype=int8")),
    Job("jax", "t5_1_1_base", 32, ("remat=none",), 60),
    Job("peft", "t5_1_1_base", 32, (), 40),
)


def step_of_jax(job: Job, shape: tuple[int, int, int]) -> tuple[Callable[[], float], float]:
    """A training step, and the operations that a row needs, nothing computed twice."""
    import jax
    from train_step_vs_peft import our_step, rows_of

    from prompt_jax import PromptTuningConfig, init, load_backbone, loss_fn
    from prompt_jax.plan.costs import work_of
    from prompt_jax.runtime import prepare

    prepare()
    text, virtual, target = shape
    options = dict(option.split("=") for option in job.options)
    backbone = load_backbone(job.size, scan=True, **options)
    method = PromptTuningConfig(num_virtual_tokens=virtual)
    batch = rows_of(job.rows, text, target, 32000)
    bare = dataclasses.replace(backbone, config=dataclasses.replace(backbone.config, remat="none"))
    gradient = jax.jit(jax.grad(loss_fn(method, bare), has_aux=True))
    tuned = init(method, backbone, jax.random.key(0))
    work = work_of(gradient.trace(tuned, bare.params, batch).jaxpr.jaxpr)
    return our_step(backbone, method, batch), work.flops / job.rows


def step_of_peft(job: Job, shape: tuple[int, int, int]) -> Callable[[], float]:
    """A training step of PEFT, in bfloat16 on a GPU as ours is."""
    import peft
    import torch
    from train_step_vs_peft import peer_config, peft_step
    from transformers import T5ForConditionalGeneration

    from prompt_jax.backbones.t5 import PRESETS

    text, virtual, target = shape
    preset, device = PRESETS[job.size], "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    settings = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=virtual)
    with torch.device(device):
        plain = T5ForConditionalGeneration(peer_config(preset))
        model = peft.get_peft_model(plain, settings).train()
        tokens = torch.randint(2, 32000, (job.rows, text))
        labels = torch.randint(2, 32000, (job.rows, target))
    if "checkpoint" in job.options:
        plain.gradient_checkpointing_enable({"use_reentrant": False})
    if "compile" in job.options:
        for stack in (plain.encoder, plain.decoder):
            for block in stack.block:  # Blocks are alike, so the first compilation serves all.
                block.compile(dynamic=False)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}
    return peft_step(model, inputs)


def ceiling() -> dict[str, Any]:
    """The card's name and what it reaches in a plain product."""
    import torch

    rows, inputs, outputs = CEILING
    options = {"device": "cuda", "dtype": torch.bfloat16}
    left, right = torch.randn(rows, inputs, **options), torch.randn(inputs, outputs, **options)

    def run() -> float:
        return float((left @ right)[0, 0])

    seconds = median_seconds(run)
    tflops = 2 * rows * inputs * outputs / seconds / 1e12
    return {"card": torch.cuda.get_device_name(), "tflops": tflops}


def median_seconds(run: Callable[[], float]) -> float:
    """Of a step that has run before; `run` waits for its result."""
    for _ in range(WARM):
        run()
    times = []
    for _ in range(TIMED):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def peak_memory(side: str) -> float:
    """GiB of the card that were in use at most; 0 on a CPU."""
    if side == "jax":
        import jax

        used = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    else:
        import torch

        used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return used / 2**30


def measure(job: Job, tiny: bool) -> dict[str, Any]:
    """The figures of one job, in this process."""
    if job.side == "ceiling":
        return ceiling()
    shape = (TEXT, VIRTUAL, TARGET)
    if tiny:
        job, shape = job._replace(size="t5_1_1_small", rows=2), (24, 4, 4)
    figures: dict[str, Any] = {}
    if job.side == "jax":
        run, figures["flops"] = step_of_jax(job, shape)
    else:
        run = step_of_peft(job, shape)
    begin = time.perf_counter()
    figures["loss"] = run()
    figures["first"] = time.perf_counter() - begin
    figures["seconds"] = median_seconds(run)
    return figures | {"rows": job.rows, "gib": peak_memory(job.side)}


def apart(index: int, tiny: bool, seconds: float) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--job", str(index), *(["--tiny"] if tiny else [])]
    environment = os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
    options = {"env": environment, "capture_output": True, "text": True, "timeout": seconds}
    try:
        done = subprocess.run(command, check=False, **options)
    except subprocess.TimeoutExpired:
        return {"error": f"took over {seconds:.0f} s"}
    if done.returncode:
        return {"error": done.stderr.strip()[-400:]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints a row a job, with what it reaches of the card's speed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="file for the rows as JSON lines")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--tiny", action="store_true", help="T5 small, 2 rows of 24 tokens")
    parser.add_argument("--job", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job is not None:
        print(json.dumps(measure(JOBS[options.job], options.tiny)))
        return
    end = time.monotonic() + 60 * options.minutes
    peak, per_row = 0.0, {}
    columns = ("side", "size", "rows", "options", "rows/s", "seconds", "MFU", "GiB")
    print("{:5} {:12} {:>4} {:22} {:>8} {:>8} {:>6} {:>6}".format(*columns))
    for index, job in enumerate(JOBS):
        label = f"{job.side:5} {job.size:12} {job.rows:4d} {' '.join(job.options):22}"
        left = end - time.monotonic()
        if options.tiny and job.side == "ceiling":
            continue  # A product of this size takes a CPU minutes.
        limit = left if options.tiny else min(left, job.seconds)
        if limit < 0.6 * job.seconds:
            print(f"{label} left out, no time", flush=True)
            continue
        figures = apart(index, options.tiny, limit)
        if options.out:
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(job._asdict() | figures) + "\n")
        if "seconds" not in figures:
            peak = figures.get("tflops", peak)
            print(f"{label} {figures}", flush=True)
            continue
        # Both sides need the same operations, which are counted in ours.
        per_row[job.size] = figures.get("flops", per_row.get(job.size, 0.0))
        speed = figures["rows"] / figures["seconds"]
        share = per_row[job.size] * speed / 1e12 / peak if peak else 0.0
        print(f"{label} {speed:8.2f} {figures['seconds']:8.4f} {share:6.2f} {figures['gib']:6.1f}")


if __name__ == "__main__":
    main()
