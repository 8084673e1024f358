"""Several methods on the same data and budget, and what each costs: `prompt-jax compare`."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import optax

from prompt_jax import disk, report
from prompt_jax.answers import answer
from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError, MethodConfig, resolved
from prompt_jax.experiment.answering import batches_of, loss_of
from prompt_jax.experiment.loop import Say
from prompt_jax.experiment.rivals import TUNED, rival
from prompt_jax.experiment.splits import Data, check_one, for_backbone, load_data
from prompt_jax.experiment.training import load, train
from prompt_jax.forward import Injection
from prompt_jax.methods import method_of
from prompt_jax.metrics import Scores
from prompt_jax.plan import fitted
from prompt_jax.prompts import Prompt, fresh
from prompt_jax.runs import begin_run, claim, read_metrics
from prompt_jax.sharding import place_rows, replicate
from prompt_jax.train import compile_step, start

TIMED = 5
"""Times that a batch is answered to measure how long it takes."""


class Row(NamedTuple):
    """What a method reached and cost."""

    method: str
    scores: dict[str, float]
    """The deciding metric on every test set, or on validation where there is none."""
    trained: int
    """Numbers that were trained."""
    share: float
    """Trained numbers over those of the frozen model."""
    bytes: int
    """Size of the weights that are served, on disk."""
    examples_per_second: float
    """While training: the median of all steps."""
    step_bytes: int
    """Memory that a compiled training step holds beside the frozen model."""
    latency: float
    """Time to answer a batch, over that of the plain frozen model."""
    composes: bool
    """Whether prompts of this method are joined by `compose`."""
    merges: bool
    """Whether it can be added into the frozen weights."""


def compare_methods(
    config: Config,
    methods: Sequence[MethodConfig],
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Say = print,
) -> list[Row]:
    """Trains each method in a folder of its own within `config.out` and measures it.

    Every method has the same rows in the same order, the same number of steps and its own best
    optimizer and rate, unless the config names them. The results are written there as compare.md,
    compare.json and compare.png; where a signal stops a run, there are none.

    Args:
      methods: each of another kind.
      resume: continue the run that was stopped, and go on with the methods that have none.

    Raises:
      InputError: no method, one named twice, a mixture of tasks, or as `train`.
    """
    check_one(config, "compare")
    kinds = [method.kind for method in methods]
    if not kinds or len(set(kinds)) < len(kinds):
        raise InputError(
            f"compare wants different methods, got {', '.join(kinds) or 'none'}; name each once"
        )
    with claim(config, resume=resume, overwrite=overwrite) as folder:
        begin_run(folder, config, resume=resume)
        return _compare(config, methods, folder, say)


def _compare(config: Config, methods: Sequence[MethodConfig], folder: Path, say: Say) -> list[Row]:
    rows, plain, metric, way = [], {}, "", ""
    for method in methods:
        out = folder / method.kind
        alone = resolved(dataclasses.replace(config, method=method, out=str(out)))
        say(f"\n== {method.kind}")
        result = train(alone, resume=(out / "config.json").is_file(), say=say)
        if result.prompt is None:
            return rows
        metric = result.results[TUNED]["validation"].deciding
        way = rival(result.results)
        plain = _scores(result.results[way])
        rows.append(_measured(alone, result.prompt, _scores(result.results[TUNED])))
    _write(folder, rows, (way, plain), metric, say)
    return rows


def _scores(sets: dict[str, Scores]) -> dict[str, float]:
    """The deciding metric on every test set, or on validation where there is none."""
    scores = {name: metrics.score for name, metrics in sets.items()}
    return {name: score for name, score in scores.items() if name != "validation"} or scores


def _measured(config: Config, prompt: Prompt, scores: dict[str, float]) -> Row:
    backbone = load(fitted(config))
    data = for_backbone(load_data(config), config, backbone)
    rates = [
        row["examples_per_second"]
        for row in read_metrics(Path(config.out))
        if "examples_per_second" in row
    ]
    trained, frozen = optax.tree.size(prompt.trained_tree), optax.tree.size(backbone.params)
    return Row(
        method=config.method.kind,
        scores=scores,
        trained=trained,
        share=trained / frozen,
        # A saved prompt is float32.
        bytes=4 * prompt.size,
        examples_per_second=statistics.median(rates),
        step_bytes=_step_bytes(config, data, backbone, prompt),
        latency=_latency(config, data, backbone, prompt),
        composes=prompt.method.rows_only,
        merges=method_of(config.method).merge is not None,
    )


def _step_bytes(config: Config, data: Data, backbone: Backbone, prompt: Prompt) -> int:
    """What the compiler says of a step: its temporary memory, and the state."""
    method = prompt.trained_method
    batches = batches_of(config, method, backbone, data.train, data.task)
    tuned = fresh(method, backbone, config.train.seed)
    loss = loss_of(config, method, backbone, data.task, tuned)
    mesh = backbone.mesh
    state, step = (
        replicate(start(tuned, config.train), mesh),
        compile_step(loss, config.train, mesh),
    )
    batch = place_rows(batches[0], mesh)
    sizes = step.lower(state, backbone.unstacked(), batch).compile().memory_analysis()
    # The frozen tree is an argument and no temporary; the state is donated, and counted once.
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    return held + (sizes.temp_size_in_bytes if sizes else 0)


def _latency(config: Config, data: Data, backbone: Backbone, prompt: Prompt) -> float:
    """The median ratio of rounds in which both models answer the same rows."""
    examples = (next(iter(data.tests.values()), None) or data.validation)[: config.scoring.rows]
    sources = [example.source for example in examples]
    eval = dataclasses.replace(config.eval, batch_size=len(sources))
    options = {"data": config.data, "eval": eval}

    def seconds(injection: Injection) -> float:
        begin = time.perf_counter()
        answer(backbone, injection, sources, data.task, **options)
        return time.perf_counter() - begin

    injection = prompt.injection()
    # Without a head of its own the plain model would answer another question.
    plain = Injection(head=injection.head, pool_prompt=injection.pool_prompt)
    for way in (plain, injection):
        seconds(way)  # The first call compiles.
    # The ratio within a round: what else runs on the machine slows both of it.
    return statistics.median(seconds(injection) / seconds(plain) for _ in range(TIMED))


COLUMNS: dict[str, Callable[[Row], str]] = {
    "trained numbers": lambda row: f"{row.trained:,}",
    "share": lambda row: f"{row.share:.3%}",
    "on disk": lambda row: f"{row.bytes / 1e3:,.0f} kB",
    "train ex/s": lambda row: f"{row.examples_per_second:.0f}",
    "step memory": lambda row: f"{row.step_bytes / 1e6:,.0f} MB",
    "latency": lambda row: f"{row.latency:.2f} x",
    "composes": lambda row: "yes" if row.composes else "",
    "merges": lambda row: "yes" if row.merges else "",
}


def table(rows: Sequence[Row], way: str, plain: dict[str, float]) -> list[list[str]]:
    """The comparison as cells, the way to answer that all have to beat in its first row."""
    cells = [["method", *plain, *COLUMNS]]
    cells.append([way, *(f"{score:.3f}" for score in plain.values()), *[""] * len(COLUMNS)])
    for row in rows:
        scores = (f"{row.scores[name]:.3f}" for name in plain)
        cells.append([row.method, *scores, *(column(row) for column in COLUMNS.values())])
    return cells


def _write(
    folder: Path, rows: Sequence[Row], rival: tuple[str, dict[str, float]], metric: str, say: Say
) -> None:
    way, plain = rival
    cells = table(rows, way, plain)
    disk.write(folder / "compare.md", report.markdown(cells) + "\n")
    summary = {way: plain, "methods": [row._asdict() for row in rows]}
    disk.write(folder / "compare.json", json.dumps(summary, indent=2) + "\n")
    first, *_ = plain
    points = [(row.method, row.trained, row.scores[first]) for row in rows]
    report.draw_methods(folder / "compare.png", points, f"{metric} ({first})", (way, plain[first]))
    say("\n" + report.markdown(cells))
    say(f"\nwritten: {folder / 'compare.md'}, compare.json and compare.png")
