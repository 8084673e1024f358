"""Candidates that train together, of which the best is kept: `prompt-jax sweep`.

The program has so many slots; a candidate that loses leaves its slot to another one, which is a
copy of a few thousand parameters and compiles nothing.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prompt_jax import disk, report
from prompt_jax.config import (
    Config,
    InputError,
    SweepConfig,
    differences,
    from_json,
    resolved,
    to_json,
)
from prompt_jax.experiment.budget import Budget, Work
from prompt_jax.experiment.candidates import Candidates
from prompt_jax.experiment.choice import warnings_of
from prompt_jax.experiment.conclude import Result, conclude
from prompt_jax.experiment.forecast import forecast
from prompt_jax.experiment.loop import Loop
from prompt_jax.experiment.splits import check_one, for_backbone, load_data
from prompt_jax.experiment.training import check_data, inputs_of, load, run_folder
from prompt_jax.lines import Line, Panel, Say, silent
from prompt_jax.plan import fitted
from prompt_jax.population import length_of
from prompt_jax.processes import is_first, together
from prompt_jax.runs import begin_run, read_metrics, rows_of
from prompt_jax.tasks import remarks
from prompt_jax.train import DivergedError

KEPT = "sweep_config.json"
FIELDS = {
    "learning_rates": ("train", "learning_rate"),
    "weight_decays": ("train", "weight_decay"),
    "seeds": ("train", "seed"),
    "inits": ("method", "init"),
    "lengths": ("method", "num_virtual_tokens"),
    "placements": ("method", "placement"),
}
"""Choice of a sweep -> field of an experiment."""


def candidates(config: Config, sweep: SweepConfig) -> list[Config]:
    """The experiments of a sweep, drawn from all combinations of its choices.

    Raises:
      InputError: there is no choice, the method has no such field, or a value is not allowed.
    """
    choices = sweep.choices
    combined = list(itertools.product(*choices.values()))
    if len(combined) < 2:
        raise InputError(
            f"a sweep needs a choice, got {len(combined)} combination; give two values or more of "
            f"sweep.{', sweep.'.join(FIELDS)}"
        )
    for name in choices:
        part, field = FIELDS[name]
        if not hasattr(getattr(config, part), field):
            raise InputError(
                f"{config.method.kind} has no {field} for sweep.{name} to choose; leave it out"
            )
    order = np.random.default_rng(sweep.seed).permutation(len(combined))
    drawn = [combined[i] for i in sorted(order[: sweep.candidates])]
    return [_with(config, dict(zip(choices, values, strict=True))) for values in drawn]


def _with(config: Config, values: dict[str, float | str]) -> Config:
    parts: dict[str, dict[str, float | str]] = {"train": {}, "method": {}}
    for name, value in values.items():
        part, field = FIELDS[name]
        parts[part][field] = value
    changed = {
        part: dataclasses.replace(getattr(config, part), **fields)
        for part, fields in parts.items()
        if fields
    }
    return dataclasses.replace(config, **changed)


class Sweep(NamedTuple):
    """What a sweep ends with."""

    best: int
    """The winner among the candidates."""
    result: Result
    """The winner's, as of a single experiment; its prompt is None where a signal stopped it."""


def sweep(
    config: Config,
    sweep: SweepConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Say = print,
) -> Sweep:
    """Trains candidates together, drops those that lose, and saves the best prompt.

    Args:
      config: the experiment; `train.steps` is what a candidate that wins has made.
      sweep: what candidates differ in, and who goes on.
      resume: continue the sweep in `config.out` from its last checkpoint.

    Raises:
      InputError: nothing to choose from, candidates that cannot share a program, a sweep of other
        options to resume, or as `train`.
      DivergedError: no candidate has a loss that is a number.
    """
    check_one(config, "sweep")
    config = resolved(config)
    configs = candidates(config, sweep)
    sweep.targets(config.train.steps)
    options = {"sweep": to_json(sweep)}
    with run_folder(config, resume=resume, overwrite=overwrite, options=options) as folder:
        if resume:
            together(lambda: _check_same(folder, sweep) if is_first() else None)
        return _sweep(config, configs, sweep, folder, resume, say if is_first() else silent)


def _sweep(
    config: Config, configs: list[Config], sweep: SweepConfig, folder: Path, resume: bool, say: Say
) -> Sweep:
    budget = Budget(sweep, folder, say)
    data = together(lambda: load_data(config))
    check_data([data])
    # Shorter prompts are padded, so that each takes as much as the longest.
    longest = max(configs, key=lambda candidate: length_of(candidate.method))
    running = fitted(longest, members=min(sweep.slots, len(configs)), say=say)
    backbone = load(running, say)
    config = resolved(config, backbone.word_size)
    configs = [dataclasses.replace(candidate, eval=running.eval) for candidate in configs]
    pool = Candidates(configs, sweep, backbone, data)
    data = for_backbone(data, configs[0], backbone)
    say(_introduction(configs, sweep, pool.targets))
    for line in (*remarks(data.task, config.task), *warnings_of(data, config)):
        say(line)
    # After all that can be wrong: until then a folder to overwrite stays as it is.
    inputs = inputs_of(config, backbone, [data])
    together(lambda: begin_run(folder, config, resume=resume, inputs=inputs))
    disk.write(folder / KEPT, json.dumps(to_json(sweep), indent=2) + "\n")
    every = config.train.eval_every
    work = Work(config.train.steps, pool.steps, config.train.batch_size)
    budget.begin(work, 1 if backbone.mesh is None else backbone.mesh.size, resume=resume)
    watched = work.all // every * len(data.watched(config))
    schedules = [batches for population in pool.populations for batches in population.batches]
    hours = forecast(running, backbone, schedules, watched, steps=work.all)
    if hours:
        say(f"all candidates: {hours}")
        budget.check(hours.step, "by the compiler's estimate")
    loop = Loop(pool, [folder] * len(pool), config.train, say, budget.exhausted)
    loop.every(every, loop.evaluate)
    loop.every(1, loop.log, reads=False)
    loop.every(1, budget.measure, reads=False)
    loop.every(every, loop.save)
    loop.every(every, budget.keep)
    loop.every(every, budget.foretell)
    loop.run(folder / "checkpoints", resume=resume)
    budget.keep(loop.clock, {})
    best = pool.winner()
    if loop.stopped:
        return Sweep(best, Result(None, {}, folder))
    budget.ended(judged=any(pool.best(i).score > -np.inf for i in range(len(pool))))
    if pool.best(best).score == -np.inf:
        raise DivergedError(
            "no candidate has a prompt whose numbers are finite; give lower sweep.learning_rates"
        )
    return Sweep(best, _conclude(pool, best, folder, say))


def read_sweep(folder: Path) -> SweepConfig:
    """The options of the sweep in a folder."""
    path = folder / KEPT
    if not path.is_file():
        raise InputError(
            f"{folder} holds no sweep to resume: {path} is missing; leave out --resume"
        )
    return from_json(SweepConfig, json.loads(path.read_text(encoding="utf-8")))


def _check_same(folder: Path, sweep: SweepConfig) -> None:
    # What is spent is the same with another budget.
    kept = dataclasses.replace(read_sweep(folder), budget=sweep.budget)
    changes = differences(kept, sweep, "sweep.")
    if changes:
        raise InputError(
            f"{folder} holds another sweep: {'; '.join(changes)}; resume it with its own options, "
            "or give another --out"
        )


def _introduction(configs: list[Config], sweep: SweepConfig, targets: tuple[int, ...]) -> str:
    rungs = ", ".join(map(str, targets))
    named = "; ".join(f"{name} {', '.join(map(str, v))}" for name, v in sweep.choices.items())
    return (
        f"{len(configs)} candidates over {named}; {sweep.slots} at once, {sweep.how} with rungs at "
        f"step {rungs}"
    )


def _conclude(pool: Candidates, best: int, folder: Path, say: Say) -> Result:
    """The winner as of a single experiment, beside a report of all."""
    trained, steps = pool.trained(best), read_metrics(folder)
    curves = [rows_of(steps, i) for i in range(len(pool))]
    lines = table(pool)
    head = ["candidate", *lines[0].choices, "steps", "score", "at step"]
    cells = [head, *(line.cells for line in lines)]
    metric = trained.tasks[0].task.metrics[0]
    report.draw_sweep(folder / "sweep.png", lines, curves, metric)
    disk.write(folder / "sweep.md", report.markdown(cells) + "\n")
    lineage = {"candidate": best, "of": len(pool), "went_on_from": pool.lineage(best)}
    summary = {
        "sweep": to_json(pool.sweep),
        "winner": lineage,
        "candidates": [head, *(c.row for c in lines)],
    }
    disk.write(folder / "sweep.json", json.dumps(summary, indent=2) + "\n")
    say(f"written: {folder / 'sweep.md'}, sweep.json and sweep.png")
    panel = Panel(f"{folder}: candidates", cells, {})
    say(Line(report.markdown(cells), {"sweep": summary}, panel))
    config = dataclasses.replace(trained.config, out=str(folder))
    lineage = {"sweep": {**to_json(pool.sweep), **lineage}}
    trained = trained._replace(config=config)
    return conclude(trained, folder, say, curve=curves[best], lineage=lineage)


def table(pool: Candidates) -> list[report.Candidate]:
    """All candidates, the best first: what each is, how far it went, its best score."""
    fields = [FIELDS[name] for name in pool.sweep.choices]
    lines = []
    for i in sorted(range(len(pool)), key=pool.reached, reverse=True):
        config, best = pool.configs[i], pool.best(i)
        choices = {field: getattr(getattr(config, part), field) for part, field in fields}
        ends = (pool.step(i), float(best.score), int(best.step))
        lines.append(report.Candidate(i, choices, *ends))
    return lines
