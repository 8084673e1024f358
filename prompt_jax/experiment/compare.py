"""Several methods on the same data and budget, and what each costs: `prompt-jax compare`."""

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

from prompt_jax import disk, report
from prompt_jax.answers import answer
from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError, MethodConfig, at_least, resolved, to_json
from prompt_jax.experiment.answering import batches_of, loss_of
from prompt_jax.experiment.conclude import Result
from prompt_jax.experiment.evaluation import TUNED
from prompt_jax.experiment.forgetting import OtherText
from prompt_jax.experiment.rivals import parse_rivals
from prompt_jax.experiment.splits import Data, check_one, for_backbone, load_data
from prompt_jax.experiment.training import check_data, load, run_folder, train, train_seeds
from prompt_jax.forward import Injection
from prompt_jax.lines import Line, Panel, Say, in_part, silent
from prompt_jax.methods import method_of
from prompt_jax.metrics import Scores
from prompt_jax.plan import fitted
from prompt_jax.processes import from_first, is_first, together
from prompt_jax.prompts import Prompt, fresh
from prompt_jax.runs import begin_run, read_metrics
from prompt_jax.sharding import place_rows, replicate
from prompt_jax.train import compile_step, start

TIMED = 5
"""Times that a batch is answered to measure how long it takes."""


SeedScores = list[dict[str, float]]
"""The deciding metric on every test set, or on validation where there is none; one a seed."""


class Row(NamedTuple):
    """What a method reached and cost."""

    method: str
    scores: SeedScores
    trained: int
    """Numbers that were trained."""
    share: float
    """Trained parameters over those of the frozen model."""
    bytes: int
    """Size of the weights that are served, on disk."""
    examples_per_second: float
    """While training, of all seeds together: the median of all steps. NaN in other processes than
    the first."""
    step_bytes: int
    """Memory that a compiled training step of one seed holds beside the frozen model."""
    latency: float
    """Time to answer a batch, over that of the plain frozen model."""
    composes: bool
    """Whether prompts of this method are joined by `compose`."""
    merges: bool
    """Whether it can be added into the frozen weights."""
    forgetting: float | None = None
    """Loss on other text over that of the frozen model, in nats a token; None where not asked."""


class CompareOptions(NamedTuple):
    """What a comparison has beside its methods."""

    seeds: int = 1
    """Prompts of each method, trained in one program with seeds from `train.seed` on."""
    rivals: tuple[str, ...] = ()
    """See `parse_rival`; the rows that they show are drawn by the same seeds."""
    forgetting: str = ""
    """A file or a dataset whose text tells what a method costs elsewhere; see `OtherText`."""


def compare_methods(
    config: Config,
    methods: Sequence[MethodConfig],
    options: CompareOptions = CompareOptions(),  # noqa: B008 (immutable)
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
      InputError: no method, one named twice, a mixture of tasks, or as `train`, `train_seeds`,
        `parse_rivals` and `OtherText`.
    """
    check_one(config, "compare")
    at_least("seeds", options.seeds, 1)
    kinds = [method.kind for method in methods]
    if not kinds or len(set(kinds)) < len(kinds):
        raise InputError(
            f"compare wants different methods, got {', '.join(kinds) or 'none'}; name each once"
        )
    facts = {"compare": options._asdict(), "methods": {m.kind: to_json(m) for m in methods}}
    with run_folder(config, resume=resume, overwrite=overwrite, options=facts) as folder:
        say = say if is_first() else silent
        ways = _scored_rivals(config, options, say)
        together(lambda: begin_run(folder, config, resume=resume))
        return _compare(config, methods, options, ways, say)


def _scored_rivals(config: Config, options: CompareOptions, say: Say) -> dict[str, SeedScores]:
    """The scores of rivals, once all that is asked for has been checked.

    The model goes with this call: each method loads its own, and two would not fit a device.
    """
    if not options.rivals and not options.forgetting:
        return {}
    loaded = together(lambda: load_data(config))
    check_data([loaded])
    backbone = load(fitted(config, say=say), say)
    data = for_backbone(loaded, config, backbone)
    rivals = together(lambda: parse_rivals(options.rivals, data, backbone))
    if options.forgetting:
        together(lambda: OtherText(options.forgetting, config, backbone))
    sets, ways = data.tests or {"validation": data.validation}, {}
    for rival in rivals:
        say(f"scoring {rival.name}")
        seeds = _seeds(config, options) if rival.seeded else [config.train.seed]
        ways[rival.name] = [
            {
                name: rival.scores(config, data, backbone, examples, seed).score
                for name, examples in sets.items()
            }
            for seed in seeds
        ]
    return ways


def _seeds(config: Config, options: CompareOptions) -> list[int]:
    return [config.train.seed + i for i in range(options.seeds)]


def _compare(
    config: Config,
    methods: Sequence[MethodConfig],
    options: CompareOptions,
    ways: dict[str, SeedScores],
    say: Say,
) -> list[Row]:
    folder, rows, plain, metric = Path(config.out), [], {}, ""
    for method in methods:
        out = folder / method.kind
        chosen = resolved(dataclasses.replace(config, method=method, out=str(out)))
        say(f"\n== {method.kind}")
        # The first process alone has the folders.
        again = bool(from_first(np.int32((out / "config.json").is_file())))
        if options.seeds == 1:
            results = [train(chosen, resume=again, say=in_part(say))]
        else:
            seeds = _seeds(config, options)
            results = train_seeds(chosen, seeds, resume=again, say=in_part(say))
        if any(result.prompt is None for result in results):
            return rows
        first = results[0].results
        metric = first[TUNED]["validation"].deciding
        plain = {name: [_scores(sets)] for name, sets in first.items() if name != TUNED} | plain
        rows.append(_measured(chosen, results, options.forgetting))
    # A method with a head of its own says nothing of the frozen model, and another one may.
    if is_first():
        _write(folder, rows, plain | ways, metric, say)
    return rows


def _scores(sets: dict[str, Scores]) -> dict[str, float]:
    """The deciding metric on every test set, or on validation where there is none."""
    scores = {name: metrics.score for name, metrics in sets.items()}
    return {name: score for name, score in scores.items() if name != "validation"} or scores


def _measured(config: Config, results: Sequence[Result], text: str) -> Row:
    backbone = load(fitted(config))
    data = for_backbone(load_data(config), config, backbone)
    rates = [
        row["examples_per_second"]
        for row in read_metrics(results[0].folder)
        if "examples_per_second" in row
    ]
    prompts = [result.prompt for result in results if result.prompt]
    prompt, *_ = prompts
    trained, frozen = optax.tree.size(prompt.trained_tree), optax.tree.size(backbone.params)
    forgetting = None
    if text:
        texts = OtherText(text, config, backbone)
        losses = [texts.loss(prompt.injection()) for prompt in prompts]
        forgetting = statistics.mean(losses) - texts.loss(None)
    return Row(
        method=config.method.kind,
        scores=[_scores(result.results[TUNED]) for result in results],
        trained=trained,
        share=trained / frozen,
        # A saved prompt is float32.
        bytes=4 * prompt.size,
        examples_per_second=statistics.median(rates or [math.nan]) * len(results),
        step_bytes=_step_bytes(config, data, backbone, prompt),
        latency=_latency(config, data, backbone, prompt),
        composes=prompt.method.rows_only,
        merges=method_of(config.method).merge is not None,
        forgetting=forgetting,
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
    "trained parameters": lambda row: f"{row.trained:,}",
    "share": lambda row: f"{row.share:.3%}",
    "on disk": lambda row: f"{row.bytes / 1e3:,.0f} kB",
    "train ex/s": lambda row: f"{row.examples_per_second:.0f}",
    "step memory": lambda row: f"{row.step_bytes / 1e6:,.0f} MB",
    "latency": lambda row: f"{row.latency:.2f} x",
    "composes": lambda row: "yes" if row.composes else "",
    "merges": lambda row: "yes" if row.merges else "",
    "forgetting": lambda row: "" if row.forgetting is None else f"{row.forgetting:+.3f}",
}


def table(rows: Sequence[Row], ways: Mapping[str, SeedScores]) -> list[list[str]]:
    """The comparison as cells: the ways that tune nothing first, then the methods.

    Of several seeds a cell has the mean and the standard deviation.
    """
    columns = {name: column for name, column in COLUMNS.items() if any(column(row) for row in rows)}
    names = list(rows[0].scores[0])
    cells = [["method", *names, *columns]]
    for way, scores in ways.items():
        cells.append([way, *(_spread(scores, name) for name in names), *[""] * len(columns)])
    for row in rows:
        spreads = (_spread(row.scores, name) for name in names)
        cells.append([row.method, *spreads, *(column(row) for column in columns.values())])
    return cells


def _mean(scores: SeedScores, name: str) -> float:
    return statistics.mean(score[name] for score in scores)


def _spread(scores: SeedScores, name: str) -> str:
    mean = f"{_mean(scores, name):.3f}"
    if len(scores) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(score[name] for score in scores):.3f}"


def _write(
    folder: Path, rows: Sequence[Row], ways: Mapping[str, SeedScores], metric: str, say: Say
) -> None:
    cells = table(rows, ways)
    disk.write(folder / "compare.md", report.markdown(cells) + "\n")
    summary = {"without tuning": ways, "methods": [row._asdict() for row in rows]}
    disk.write(folder / "compare.json", json.dumps(summary, indent=2) + "\n")
    first = next(iter(rows[0].scores[0]))
    points = [(row.method, row.trained, _mean(row.scores, first)) for row in rows]
    levels = {way: _mean(scores, first) for way, scores in ways.items()}
    report.draw_methods(folder / "compare.png", points, f"{metric} ({first})", levels)
    say(f"written: {folder / 'compare.md'}, compare.json and compare.png")
    facts = {"saved in": f"{folder}, a folder for each method", "picture": f"{folder}/compare.png"}
    say(Line(report.markdown(cells), {"results": summary}, Panel(str(folder), cells, facts)))
