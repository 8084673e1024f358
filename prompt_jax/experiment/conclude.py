"""What an experiment ends with: results beside its rivals, the saved prompt, the report."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prompt_jax import report
from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, DataConfig, MethodConfig, file_name, to_json
from prompt_jax.experiment.choice import Best, joined, lesson
from prompt_jax.experiment.evaluation import FROZEN, TUNED, Results, reference, score_ways
from prompt_jax.experiment.members import Trained
from prompt_jax.experiment.splits import Data, digest
from prompt_jax.forward import for_tasks
from prompt_jax.lines import Line, Panel, Say
from prompt_jax.methods import materialize, of_task
from prompt_jax.metrics import Scores
from prompt_jax.prompts import Prompt, inspect, prompt_for, save_prompt
from prompt_jax.runs import Row, read_metrics
from prompt_jax.trees import Tuned


class Result(NamedTuple):
    """What an experiment ends with."""

    prompt: Prompt | None
    """None when it was stopped before its end."""
    results: Results
    folder: Path


def conclude(
    trained: Trained,
    folder: Path,
    say: Say,
    *,
    curve: Sequence[Row] | None = None,
    lineage: Mapping[str, object] | None = None,
) -> Result:
    """Evaluates the best prompt and its rivals, saves it, and writes the report.

    Args:
      curve: rows of metrics to draw; None takes those of the run.
      lineage: where the prompt comes from, for its recipe.
    """
    config, tasks, backbone, method, best = trained
    injection = materialize(method, best.tuned)
    results: Results = {}
    untuned: dict[str, Scores] = {}
    # By these the rows are known again when the prompt is evaluated later.
    held_out = {data.task.name: digest(data.validation) for data in tasks if data.held_out}
    lineage = {"held_out": held_out, "best_step": int(best.step), **(lineage or {})}
    for i, data in enumerate(tasks):
        # A model without a head of its own has no answers before one is trained.
        plain = {} if method.num_labels else {FROZEN: None}
        tuned = {TUNED: for_tasks(injection, i)}
        ways = score_ways(config, data, backbone, plain | tuned, say=say)
        if method.num_tasks is not None and len(tasks) > 1:
            alone = of_task(method, best.tuned, i)
            data_config = dataclasses.replace(config.data, task=data.task.name, mixture=())
            part = prompt_of(config, data, backbone, *alone, ways[TUNED], data_config, lineage)
            save_prompt(folder / "tasks" / part.name, part, overwrite=True)
        untuned[data.task.name] = ways[reference(ways)]["validation"]
        prefix = f"{file_name(data.task.name)} " if len(tasks) > 1 else ""
        for way, sets in ways.items():
            results.setdefault(way, {}).update({prefix + name: s for name, s in sets.items()})
    scores = results[TUNED]
    prompt = prompt_of(config, tasks[0], backbone, method, best.tuned, scores, config.data, lineage)
    if method.num_tasks is not None:
        prompt = dataclasses.replace(prompt, tasks=tuple(data.task for data in tasks))
    # A run that is resumed at its end may have saved its prompt before.
    save_prompt(folder / "prompt", prompt, overwrite=True)
    words = inspect(prompt, backbone)
    rows = report.table(results)
    if curve is None:
        curve = read_metrics(folder)
    level = joined(untuned)
    metric = level.deciding
    report.draw_curve(folder / "curve.png", curve, metric, (reference(results), level.score))
    facts = {
        "backbone": f"{backbone.name}, fingerprint {backbone.fingerprint[:16]}",
        "prompt": f"{method.kind}, {prompt.size:,} parameters, digest {prompt.digest[:16]}",
        "best step": best_step(best, curve),
    }
    title = ", ".join(data.task.name for data in tasks)
    remark = lesson(best, curve, metric)
    facts |= {kind: text for kind, _, text in [remark.partition(": ")] if text}
    report.write_report(folder / "report.md", title=title, facts=facts, rows=rows, words=words)
    if remark:
        say(remark)
    rivals = "shots:4 tf_idf" if tasks[0].task.choices else "shots:4"
    beside = (f"prompt-jax evaluate --prompt {shlex.quote(str(folder))} --rivals {rivals}",)
    say(ending(prompt, results, rows, folder, facts["best step"], beside))
    return Result(prompt, results, folder)


def best_step(best: Best, curve: Sequence[Row]) -> str:
    """The step of the best prompt, of how many that were made: patience may end a run early.

    Args:
      curve: the rows of the run.
    """
    # A process that has not the run's folder, and resumes it at its end, has no rows.
    last = max([int(best.step), *(int(row["step"]) for row in curve)])
    return f"{int(best.step)} of {last}"


def ending(
    prompt: Prompt,
    results: Results,
    rows: Sequence[Sequence[str]],
    folder: Path,
    best_step: str,
    beside: Sequence[str] = (),
) -> Line:
    """The result of a run, and what to do next.

    Args:
      rows: the table of results.
      best_step: that of the prompt, of how many.
      beside: commands that compare the prompt with others.
    """
    place = shlex.quote(str(folder))
    commands = (
        f'prompt-jax predict --prompt {place} "..."',
        *beside,
        f"prompt-jax prompts inspect {place}",
    )
    facts = {
        "prompt": f"{prompt.method.kind}, {prompt.size:,} parameters, best step {best_step}",
        "saved in": str(folder / "prompt"),
        "report": str(folder / "report.md"),
    }
    lines = [report.markdown(rows), "", *(f"{name} {fact}" for name, fact in facts.items())]
    lines += [f"next: {command}" for command in commands]
    values = {"results": results, "best_step": best_step, "prompt": facts["saved in"]}
    return Line("\n".join(lines), values, Panel(str(folder), rows, facts, commands))


def prompt_of(
    config: Config,
    data: Data,
    backbone: Backbone,
    method: MethodConfig,
    tuned: Tuned,
    scores: dict[str, Scores],
    trained_on: DataConfig,
    lineage: Mapping[str, object],
) -> Prompt:
    """A tuned tree with all that is known about it."""
    flat = {f"{name}/{key}": v for name, values in scores.items() for key, v in values.items()}
    return prompt_for(
        tuned,
        method,
        backbone,
        name=file_name(data.task.name),
        task=data.task,
        metrics=flat,
        seed=config.train.seed,
        recipe={**to_json(config), "data": dataclasses.asdict(trained_on), **lineage},
    )
