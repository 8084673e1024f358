"""Candidates that train together, of which the best is kept: `prompt-jax sweep`.

The program has so many slots; a candidate that loses leaves its slot to another one, which is a
copy of a few thousand numbers and compiles nothing.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prompt_jax import checkpoints, report
from prompt_jax.config import Config, InputError, SweepConfig, differences, from_json, to_json
from prompt_jax.experiment.candidates import Candidates
from prompt_jax.experiment.choice import warnings_of
from prompt_jax.experiment.conclude import Result, conclude
from prompt_jax.experiment.data import check_one, load_data
from prompt_jax.experiment.run import load
from prompt_jax.experiment.watch import Say, on_sigterm
from prompt_jax.runs import Metrics, begin_run, check_run, write_text
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


def _with(config: Config, values: dict[str, Any]) -> Config:
    parts: dict[str, dict[str, Any]] = {"train": {}, "method": {}}
    for name, value in values.items():
        part, field = FIELDS[name]
        parts[part][field] = value
    own = {part: dataclasses.replace(getattr(config, part), **v) for part, v in parts.items() if v}
    return dataclasses.replace(config, **own)


class Sweep(NamedTuple):
    """What a sweep ends with."""

    best: int
    """The winner among the candidates."""
    result: Result
    """Of the winner, as of a single experiment; its prompt is None after SIGTERM."""


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
      overwrite: replace it.
      say: receives every line for the user.

    Raises:
      InputError: nothing to choose from, candidates that cannot share a program, a sweep of other
        options to resume, or as `train`.
      DivergedError: no candidate has a loss that is a number.
    """
    check_one(config, "sweep")
    configs = candidates(config, sweep)
    sweep.targets(config.train.steps)
    folder = check_run(config, resume=resume, overwrite=overwrite)
    if resume:
        _check_same(folder, sweep)
    data, backbone = load_data(config), load(config, say)
    made = Candidates(configs, sweep, backbone, data)
    begin_run(folder, config, resume=resume)
    write_text(folder / KEPT, json.dumps(to_json(sweep), indent=2) + "\n")
    manager = checkpoints.open_checkpoints(folder / "checkpoints")
    restored = checkpoints.restore(manager, made.state()) if resume else None
    clock = 0
    if restored is not None:
        clock = restored[0]
        made.take(restored[1])
        say(f"resuming after {clock} steps of all slots")
    say(_introduction(configs, sweep, made.targets))
    for line in (*remarks(data.task, config.task), *warnings_of(data, config)):
        say(line)
    metrics = Metrics(folder, step=clock)
    stop: list[bool] = []
    with on_sigterm(lambda: stop.append(True)):
        while not stop and (chosen := made.chosen()):
            clock = _advance(made, chosen, clock, metrics, stop, say)
            checkpoints.save(manager, clock, made.state())
    metrics.close()
    manager.close()
    best = made.winner()
    if stop:
        say(f"stopped by SIGTERM after {clock} steps of all slots; continue with --resume")
        return Sweep(best, Result(None, {}, folder))
    if made.best[best].score == -np.inf:
        raise DivergedError(
            "no candidate has a prompt whose numbers are finite; give lower sweep.learning_rates"
        )
    return Sweep(best, _conclude(made, best, folder, metrics.rows, say))


def _advance(
    made: Candidates,
    chosen: list[int],
    clock: int,
    metrics: Metrics,
    stop: list[bool],
    say: Say,
) -> int:
    """Trains the chosen until one of them is to be evaluated; the clock then."""
    population, steps = made.place[chosen[0]][0], made.until(chosen)
    first, clock_before = [made.step(i) for i in chosen], clock

    def after_step(states: Any, found: dict[str, np.ndarray]) -> bool:
        nonlocal clock
        clock += 1
        # Behind the losses of the chosen may be those of copies, see `Population.advance`.
        for i, own, loss in zip(chosen, first, found["loss"].tolist(), strict=False):
            own += clock - clock_before
            metrics.add({"step": clock, "candidate": i, "own_step": own, "loss": loss})
        return bool(stop)

    population.advance([made.place[i][1] for i in chosen], steps, after_step)
    for i in chosen:
        own, rung = made.step(i), int(made.course.rung[i])
        if own % made.configs[i].train.eval_every and own != made.targets[rung]:
            continue
        found = made.judge(i)
        scores = found.scores
        named = {f"validation/{name}": value for name, value in scores.items()}
        metrics.add({"step": clock, "candidate": i, "own_step": own, **named})
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        say(f"candidate {i:>3}  step {own:>6}  validation {shown}")
    return clock


def _check_same(folder: Path, sweep: SweepConfig) -> None:
    path = folder / KEPT
    if not path.is_file():
        raise InputError(
            f"{folder} holds no sweep to resume: {path} is missing; leave out --resume"
        )
    changes = differences(from_json(SweepConfig, json.loads(path.read_text())), sweep, "sweep.")
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


def _conclude(
    made: Candidates, best: int, folder: Path, rows: list[dict[str, Any]], say: Say
) -> Result:
    """The winner as of a single experiment, beside a report of all."""
    population, at = made.place[best]
    kept, config = made.best[best], made.configs[best]
    metric = next(
        name for row in rows for name in row if name.startswith("validation/")
    ).removeprefix("validation/")
    cells = table(made)
    curves = [_curve(rows, i) for i in range(len(made.configs))]
    report.draw_sweep(folder / "sweep.png", cells, curves, metric)
    write_text(folder / "sweep.md", report.markdown(cells) + "\n")
    lineage = {"candidate": best, "of": len(made.configs), "went_on_from": made.lineage(best)}
    found = {"sweep": to_json(made.sweep), "winner": lineage, "candidates": cells}
    write_text(folder / "sweep.json", json.dumps(found, indent=2) + "\n")
    say("\n" + report.markdown(cells))
    say(f"\nwritten: {folder / 'sweep.md'}, sweep.json and sweep.png")
    return conclude(
        dataclasses.replace(config, out=str(folder)),
        [population.data[at]],
        population.backbone,
        population.methods[at],
        kept._replace(tuned=population.own(at, kept.tuned)),
        folder,
        say,
        curve=curves[best],
        lineage={"sweep": {**to_json(made.sweep), **lineage}},
    )


def table(made: Candidates) -> list[list[str]]:
    """All candidates as cells, the best first: what each is, how far it went, its best score."""
    names = list(made.sweep.choices)
    order = sorted(range(len(made.configs)), key=made.reached, reverse=True)
    rows = [["candidate", *(FIELDS[name][1] for name in names), "steps", "score", "at step"]]
    for i in order:
        values = (
            getattr(getattr(made.configs[i], part), field)
            for part, field in (FIELDS[name] for name in names)
        )
        shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
        kept = made.best[i]
        rows.append([str(i), *shown, str(made.step(i)), f"{kept.score:.3f}", str(kept.step)])
    return rows


def _curve(rows: list[dict[str, Any]], candidate: int) -> list[dict[str, Any]]:
    """The rows of one candidate, by its own steps."""
    own = [row for row in rows if row["candidate"] == candidate]
    return [{**row, "step": row["own_step"]} for row in own]
