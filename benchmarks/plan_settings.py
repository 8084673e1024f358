"""The training step of T5 XL and XXL on TPU slices with each way to make it cheaper, as a table.

The first row of a model on a slice is what it took before: attention by plain products, nothing
kept for the backward pass. The next ones change the attention, what is kept, the bits of the
weights, and how many prompts share the rows. Each row is a real compilation of one or two minutes
for a TPU that you do not have. A step has 100 virtual tokens, 412 of text and 16 of target.

    pip install "prompt-jax[plan]"
    python benchmarks/plan_settings.py --models xl --slices v5e-1 --most
"""

import argparse
import itertools
from typing import Literal, NamedTuple

from prompt_jax.config import BackboneConfig, Config, DataConfig, MeshConfig, TrainConfig
from prompt_jax.config.experiment import Attention, Dtype, Remat
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.plan import Plan, planned
from prompt_jax.plan.chips import CHIPS, GIB
from prompt_jax.report import markdown
from prompt_jax.runtime import prepare

COLUMNS = (
    *("rows", "mesh", "remat", "GiB a chip", "GiB of products", "GiB received"),
    *("seconds at least", "estimate"),
)
MEMBERS = 16


class Setting(NamedTuple):
    """A way to run the step."""

    words: str
    dtype: Dtype = "bfloat16"
    attention: Attention = "einsum"
    remat: Remat | Literal["auto"] = "full"
    members: int = 1
    copies: bool = False
    """A whole model on each chip, rather than the mesh that the plan chooses."""


SETTINGS = (
    Setting("before"),
    Setting("kernel", attention="pallas"),
    Setting("kernel, auto", attention="pallas", remat="auto"),
    Setting("kernel, auto, int8", "int8", "pallas", "auto"),
    Setting("kernel, int8, a model a chip", "int8", "pallas", copies=True),
    Setting("kernel, int4", "int4", "pallas"),
    Setting(f"kernel, {MEMBERS} prompts", attention="pallas", members=MEMBERS),
)


def step(model: str, topology: str, setting: Setting, rows: int) -> Plan:
    """The plan of a training step of so many rows, those of all prompts together."""
    sizes = 1 if setting.copies else "auto"
    mesh = MeshConfig(data="auto", fsdp=sizes, tensor=sizes)
    config = Config(
        backbone=f"t5_1_1_{model}",
        frozen=BackboneConfig(
            dtype=setting.dtype, remat=setting.remat, attention=setting.attention
        ),
        mesh=mesh,
        method=PromptTuningConfig(num_virtual_tokens=100),
        data=DataConfig(max_source_length=412, max_target_length=16),
        train=TrainConfig(batch_size=rows // setting.members),
    )
    return planned(config, topology, programs=("train",), members=setting.members)


def cells(words: str, plan: Plan, rows: int) -> list[str]:
    """What a plan takes, in `COLUMNS`."""
    (cost,) = plan.costs
    mesh = " ".join(f"{name} {size}" for name, size in plan.mesh.items() if size > 1)
    head = [words, str(rows), mesh or "one chip", plan.config.frozen.remat]
    if not plan.fits or cost.bounds is None or cost.estimate is None:
        return [*head, f"no: {cost.needed:.1f}", "", "", "", ""]
    chip = next(chip for chip in CHIPS.values() if chip.name == plan.kind)
    moved = cost.bounds.memory * chip.bandwidth / GIB
    received = sum(traffic.moved for traffic in cost.traffic) / GIB
    figures = (cost.needed, moved, received)
    seconds = (cost.bounds.seconds, cost.estimate.seconds)
    return [*head, *(f"{x:.2f}" for x in figures), *(f"{x:.3f}" for x in seconds)]


def largest(model: str, topology: str, setting: Setting, rows: int) -> tuple[Plan, int]:
    """The plan of the most rows that fit, and how many; rows double until they do not."""
    plan = step(model, topology, setting, rows)
    while (more := step(model, topology, setting, 2 * rows)).fits:
        plan, rows = more, 2 * rows
    return plan, rows


def table_of(model: str, topology: str, chosen: list[str], most: bool) -> list[list[str]]:
    """A row for each setting of these words; prints each as it is there.

    Args:
      most: adds a row for the largest batch.
    """
    # In bfloat16, XXL is larger than one v5e.
    alone = model == "xxl" and topology == "v5e-1"
    rows = 8 if alone else 32
    table = [[f"{model}, {topology}", *COLUMNS]]

    def add(words: str, plan: Plan, rows: int) -> None:
        table.append(cells(words, plan, rows))
        print(*table[0][:1], *table[-1], sep=" | ", flush=True)

    for setting in [setting for setting in SETTINGS if setting.words in chosen]:
        if alone and setting.dtype == "bfloat16":
            setting = setting._replace(words=f"{setting.words}, int8", dtype="int8")
        count = max(rows, setting.members)
        if not (alone and setting.copies):
            add(setting.words, step(model, topology, setting, count), count)
    if most:
        kernel = Setting("", "int8" if alone else "bfloat16", "pallas")
        words = "kernel, int8, most rows" if alone else "kernel, most rows"
        add(words, *largest(model, topology, kernel, rows))
    return table


def main() -> None:
    """Prints every row as it is there, then a table for each model and slice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=("xl", "xxl"))
    parser.add_argument("--slices", nargs="*", default=("v5e-1", "v5e-4", "v5e-8", "v6e-8"))
    words = [setting.words for setting in SETTINGS]
    parser.add_argument("--settings", nargs="*", default=words, choices=words, metavar="WORDS")
    parser.add_argument("--most", action="store_true", help="look for the largest batch too")
    options = parser.parse_args()
    prepare()
    pairs = itertools.product(options.models, options.slices)
    chosen = (options.settings, options.most)
    for table in [table_of(model, topology, *chosen) for model, topology in pairs]:
        print(f"\n{markdown(table)}")


if __name__ == "__main__":
    main()
