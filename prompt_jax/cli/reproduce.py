"""`prompt-jax reproduce`: the tables of a paper, with its figures beside those of our runs."""

import json
import re
import shlex
import statistics
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from prompt_jax import disk
from prompt_jax.cli.arguments import (
    Answering,
    Experiment,
    bound,
    starting_config,
    trained_on,
)
from prompt_jax.cli.calls import Call, parse
from prompt_jax.config import (
    Config,
    InputError,
    PaperConfig,
    PaperRow,
    PaperTable,
    choose,
    resolved,
)
from prompt_jax.runtime import prepare

Scores = dict[str, float]
"""Metrics by name."""


class Work:
    """The runs of one table at one size, in a folder that remembers what is done."""

    def __init__(self, paper: PaperConfig, path: Path, table: str, size: str, out: str, flags: str):
        self.size, self.table, self.flags = size, paper.tables[table], flags
        self.config = path.parent / paper.config.format(size=size)
        self.folder = Path(out or f"runs/{path.resolve().parent.name}") / size / _slug(table)

    def run_of(self, row: PaperRow, seed: int) -> Path:
        """The folder of a run."""
        return self.folder / _slug(row.name) / str(seed)

    def training(self, row: PaperRow, seed: int) -> list[str]:
        """The arguments of `prompt-jax train` for a run."""
        words = [str(self.config), *shlex.split(row.train.format(size=self.size))]
        if row.start:
            source = self.run_of(self.table.trained(PaperRow(row.start)), 0)
            words += ["--method.init", "file", "--method.init-file", str(source / "prompt")]
        words += ["--train.seed", str(seed), "--out", str(self.run_of(row, seed))]
        return [*words, *shlex.split(self.flags)]

    def scoring(self, row: PaperRow, seed: int) -> list[str]:
        """The arguments of `prompt-jax evaluate` for a run."""
        folder = self.run_of(self.table.trained(row), seed)
        return ["--prompt", str(folder), *shlex.split(row.evaluate)]

    def commands(self) -> list[str]:
        """All that has to be run, in order."""
        lines = []
        for row in self.table.rows:
            for seed in range(self.table.trained(row).seeds):
                train, evaluate = self.commands_of(row, seed)
                lines += [train, evaluate] if row.train else [evaluate]
        return lines

    def commands_of(self, row: PaperRow, seed: int) -> tuple[str, str]:
        """What trains the prompt that a row is about, and what scores it."""
        train = self.training(self.table.trained(row), seed)
        evaluate = self.scoring(row, seed)
        return (
            f"prompt-jax train {shlex.join(train)}",
            f"prompt-jax evaluate {shlex.join(evaluate)}",
        )


def run(arguments: list[str]) -> Call:
    """Runs the tables of a paper."""

    def reproduce(
        paper: Positional[str],
        *,
        table: str,
        size: str,
        out: str = "",
        flags: str = "",
        show: bool = False,
    ) -> None:
        """Trains and scores what a table needs, and writes it beside the paper's figures.

        What is done already is not run again, and a run that was stopped goes on.

        Args:
          paper: a config file, such as configs/lester2021/paper.py.
          table: one of its tables.
          size: of the backbone.
          out: where the runs and the table go; empty is runs/ and the paper's folder.
          flags: of `prompt-jax train`, over those of every run, e.g. "--train.steps 3000".
          show: print the commands, and run nothing.
        """
        config = bound(paper, PaperConfig)
        choose("table", table, config.tables)
        choose("size", size, config.sizes)
        work = Work(config, Path(paper), table, size, out, flags)
        if show:
            print("\n".join(work.commands()))
            return
        prepare()
        _train(work)
        scores = _score(work)
        text = f"# {config.title}: {work.table.title}\n\n{_markdown(config, work, scores)}\n"
        disk.write(work.folder / "table.md", text)
        print(text, end="")

    return Call("reproduce", reproduce, _joined(arguments))


def _joined(arguments: list[str]) -> list[str]:
    """The arguments with the value of --flags behind `=`: apart it would be an option itself."""
    if "--flags" not in arguments[:-1]:
        return arguments
    at = arguments.index("--flags")
    return [*arguments[:at], f"--flags={arguments[at + 1]}", *arguments[at + 2 :]]


def config_of(arguments: list[str]) -> Config:
    """The experiment that arguments of `prompt-jax train` describe."""
    default, arguments = starting_config(arguments)
    parsed: list[Config] = []

    def hold(config: Experiment = default) -> None:
        parsed.append(config)

    parse(Call("train", hold, arguments))
    return parsed[0]


def _answering(arguments: list[str]) -> Answering:
    """The saved prompt and its data that arguments of `prompt-jax evaluate` describe."""
    default = trained_on(arguments)
    parsed: list[Answering] = []

    def hold(saved: Annotated[Answering, tyro.conf.arg(name="")] = default) -> None:
        parsed.append(saved)

    parse(Call("evaluate", hold, arguments))
    return parsed[0]


def _train(work: Work) -> None:
    from prompt_jax import experiment
    from prompt_jax.runs import changes, read_config

    for row in work.table.rows:
        for seed in range(row.seeds if row.train else 0):
            folder, config = work.run_of(row, seed), config_of(work.training(row, seed))
            if not (folder / "prompt").is_dir() or not (folder / "report.md").is_file():
                started = (folder / "config.json").is_file()
                experiment.train(config, resume=started, say=_say)
            elif changed := changes(read_config(folder), resolved(config)):
                raise InputError(
                    f"{folder} was trained with another config: {'; '.join(changed)}. Reproduce "
                    "without these changes, or give another --out"
                )


def _score(work: Work) -> dict[str, dict[str, Scores]]:
    """By row and column, the metrics of its runs."""
    path = work.folder / "scores.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    scores: dict[str, dict[str, Scores]] = {}
    for row in work.table.rows:
        numbers = list(range(work.table.trained(row).seeds))
        columns = {str(seed): [seed] for seed in numbers}
        if "ensemble" in row.published:
            columns["ensemble"] = numbers
        for column, seeds in columns.items():
            commands = [line for seed in seeds for line in work.commands_of(row, seed)]
            entry = kept.setdefault(row.name, {}).get(column, {})
            # Scores of other commands, or of a version that kept none of these, are taken again.
            if entry.get("commands") != commands:
                score = _ensemble if column == "ensemble" else _evaluated
                metrics = score([work.scoring(row, seed) for seed in seeds])
                kept[row.name][column] = entry = {"commands": commands, "metrics": metrics}
                disk.write(path, json.dumps(kept, indent=1))
            scores.setdefault(row.name, {})[column] = entry["metrics"]
    return scores


def _evaluated(runs: list[list[str]]) -> Scores:
    """The metrics of a prompt."""
    from prompt_jax import experiment
    from prompt_jax.experiment.evaluation import TUNED

    saved = _answering(*runs)
    prompt, backbone = saved.load()
    config = Config(backbone=backbone.name, data=saved.data, task=saved.task, eval=saved.eval)
    results = experiment.evaluate_prompt(config, prompt, backbone, say=_say)
    # Validation stands first where there is such a set.
    return dict(next(iter(results[TUNED].values())))


def _ensemble(runs: list[list[str]]) -> Scores:
    """The metrics of prompts that vote; none where answers are written and not chosen."""
    from prompt_jax import experiment
    from prompt_jax.prompts import load_shaped

    saved = _answering(runs[0])
    first, backbone = saved.load()
    if first.task is None or not first.task.choices:
        return {}
    others = [load_shaped(_answering(arguments).prompt) for arguments in runs[1:]]
    config = Config(backbone=backbone.name, data=saved.data, task=saved.task, eval=saved.eval)
    results = experiment.evaluate_ensemble(config, [first, *others], backbone, "vote", say=_say)
    *_, together = results.values()
    return dict(next(iter(together.values())))


def _markdown(paper: PaperConfig, work: Work, scores: dict[str, dict[str, Scores]]) -> str:
    from prompt_jax import report

    table, size = work.table, paper.published_size
    published = [f"{column}, {size} in the paper" for column in table.columns if size]
    rows = [["", *(f"{column}, {work.size} here" for column in table.columns), *published]]
    for row in table.rows:
        cells = [_cell(row, table, column, scores[row.name]) for column in table.columns]
        figures = (row.published.get(column) for column in table.columns if size)
        rows.append([row.name, *cells, *("" if f is None else f"{f:.1f}" for f in figures)])
    return report.markdown(rows)


def _cell(row: PaperRow, table: PaperTable, column: str, runs: dict[str, Scores]) -> str:
    if column == "ensemble":
        chosen = [runs["ensemble"]] if runs.get("ensemble") else []
    else:
        chosen = [runs[str(seed)] for seed in range(table.trained(row).seeds)]
    values = [100 * run[row.metric or next(iter(run))] for run in chosen]
    if not values:
        return ""
    if column != "average" or len(values) == 1:
        return f"{max(values):.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def _say(line: str) -> None:
    print(line, flush=True)
