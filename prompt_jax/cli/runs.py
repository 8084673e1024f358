"""`prompt-jax runs`: training runs beside each other."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tyro.conf import Positional

from prompt_jax.cli.arguments import as_json, aside, print_table
from prompt_jax.cli.calls import Call
from prompt_jax.config import InputError, check_place, to_json

VALIDATION = "validation/"
FILES = ("config.json", "metrics.jsonl")
"""What every training run has."""
SHOWN = 5
"""Options in which runs differ that the table has room for."""
ASIDE = ("out", "sweep", "distil", "mesh", "data.cache")
"""Options, or groups, that change no score."""


class Point(NamedTuple):
    """An evaluation on validation."""

    step: int
    value: float
    """The deciding metric."""
    rank: tuple[float, float]
    """What training compares prompts by, see `prompt_jax.runs.rank`."""


class Run(NamedTuple):
    """A run folder, finished or not; of a sweep, its best candidate."""

    folder: Path
    options: dict[str, object]
    """Its config, by the names of options without their dashes."""
    curve: list[Point]
    """Every evaluation."""
    metric: str
    """The deciding metric; empty before the first evaluation."""
    best: Point | None
    """The evaluation of the prompt that is kept; None before the first one."""
    step: int
    """The last step that was made."""
    test: float | None
    """The metric on test; None before a run ends, and without test rows."""

    @property
    def score(self) -> float:
        """What runs are sorted by: the more the better; -inf before the first evaluation."""
        from prompt_jax.metrics import Scores

        return Scores({self.metric: self.best.value}, self.metric).score if self.best else -math.inf


def run(arguments: list[str]) -> Call:
    """Lists training runs."""

    def runs(
        folders: Positional[tuple[str, ...]] = ("runs",), *, plot: str = "", json: bool = False
    ) -> None:
        """Lists training runs, the best on validation first, and the options in which they differ.

        Unfinished runs are listed too. Compare scores of one task and the same validation rows.

        Args:
          folders: run folders, or folders with run folders in them.
          plot: a .png with the validation curves of all runs.
          json: print one line of JSON for each run in place of the table.
        """
        if plot:
            check_place(plot)
        ranked = sorted(read_all(run_folders(folders)), key=lambda run: -run.score)
        names = differing([run.options for run in ranked])
        if json:
            for listed in ranked:
                print(as_json(facts(listed, names)))
        else:
            show(ranked, names)
        if plot:
            draw(Path(plot), ranked)
            aside(f"drawn in {plot}")

    return Call("runs", runs, arguments)


def run_folders(folders: Sequence[str]) -> list[Path]:
    """The run folders among folders and in them.

    Raises:
      InputError: a folder is not there, or there is no run in any.
    """
    missing = [folder for folder in folders if not Path(folder).is_dir()]
    if missing:
        raise InputError(
            f"there is no folder {missing[0]}; name the --out of a run, or a folder of runs"
        )
    paths = {
        path.parent
        for folder in folders
        for path in Path(folder).rglob(FILES[1])
        if path.with_name(FILES[0]).is_file()
    }
    if not paths:
        raise InputError(
            f"there is no training run in {', '.join(folders)}: no folder with "
            f"{' and '.join(FILES)}; name the --out of a run, or a folder of runs"
        )
    return sorted(paths)


def read_all(folders: Sequence[Path]) -> Iterator[Run]:
    """Every run that can be read; why another cannot is printed beside."""
    for folder in folders:
        try:
            yield read(folder)
        except InputError as error:
            aside(f"{folder} is left out: {error}")


def read(folder: Path) -> Run:
    """A run from its files."""
    from prompt_jax.runs import FEW_ROWS, read_config, read_inputs, read_metrics, rows_of

    rows, path = read_metrics(folder), folder / "prompt" / "prompt_jax_config.json"
    saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    recipe = saved.get("recipe", {})
    names = [name for row in rows for name in row if name.startswith(VALIDATION)]
    # Metrics are written in their order, and the first decides.
    metric = names[0].removeprefix(VALIDATION) if names else ""
    candidates = sorted({row["candidate"] for row in rows if "candidate" in row})
    if "candidate" in recipe.get("sweep", {}):
        candidates = [recipe["sweep"]["candidate"]]
    parts = [rows_of(rows, candidate) for candidate in candidates] or [rows]
    few = bool(read_inputs(folder).get(FEW_ROWS))
    curves = [_curve(part, metric, few) for part in parts]
    best = max((point for curve in curves for point in curve), key=_rank, default=None)
    at = next((i for i, curve in enumerate(curves) if best in curve), 0)
    rows, curve = parts[at], curves[at]
    # A run that has not ended does not say which step is kept, and neither does an older one.
    best = next((point for point in curve if point.step == recipe.get("best_step")), best)
    step = max((int(row["step"]) for row in rows), default=0)
    options = flat(to_json(read_config(folder)))
    test = saved.get("metrics", {}).get(f"test/{metric}")
    return Run(folder, options, curve, metric, best, step, test)


def _curve(rows: Sequence[Mapping[str, float]], metric: str, few: bool) -> list[Point]:
    """The evaluations in the rows of a run."""
    from prompt_jax.metrics import Scores
    from prompt_jax.runs import rank

    points = []
    for row in rows:
        value, likelihood = (row.get(VALIDATION + name) for name in (metric, "log_likelihood"))
        if value is not None:
            score = Scores({metric: value}, metric).score
            points.append(Point(int(row["step"]), value, rank(score, likelihood, few)))
    return points


def _rank(point: Point) -> tuple[float, float]:
    return point.rank


def flat(values: Mapping[str, Any], group: str = "") -> dict[str, object]:
    """Options by their names, such as `train.steps`."""
    options: dict[str, object] = {}
    for name, value in values.items():
        name = f"{group}{name}".replace("_", "-")
        name = "method" if name == "method.kind" else name
        if name not in ASIDE:
            options |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return options


def differing(configs: Sequence[Mapping[str, object]]) -> list[str]:
    """The options that are not the same in all configs."""
    names = dict.fromkeys(name for config in configs for name in config)
    return [n for n in names if len({repr(config.get(n)) for config in configs}) > 1]


def facts(run: Run, names: Sequence[str]) -> dict[str, object]:
    """A run for programs."""
    return {
        "run": str(run.folder),
        "metric": run.metric,
        "validation": run.best and run.best.value,
        "test": run.test,
        "best_step": run.best.step if run.best else 0,
        "step": run.step,
        "options": {name: run.options.get(name) for name in names},
    }


def show(runs: Sequence[Run], names: Sequence[str]) -> None:
    """Prints the table of runs."""
    from rich.table import Table

    # The options of methods differ wherever methods do.
    columns = [n for n in names if "method" not in names or not n.startswith("method.")][:SHOWN]
    table = Table("run", "step", "best step", "validation", "test", *columns)
    for run in runs:
        cells = [_text(run.options.get(name)) for name in columns]
        steps = f"{run.step}/{run.options['train.steps']}"
        best = str(run.best.step) if run.best else "0"
        scored = f"{run.best.value:.3f} {run.metric}" if run.best else ""
        test = "" if run.test is None else f"{run.test:.3f}"
        table.add_row(str(run.folder), steps, best, scored, test, *cells)
    print_table(table)
    left = len(names) - len(columns)
    if left:
        print(f"{left} more options differ; --json lists them")


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def draw(path: Path, runs: Sequence[Run]) -> None:
    """The validation curves of runs, as a PNG."""
    from prompt_jax.report import new_figure, save_figure

    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    for run in runs:
        if run.curve:
            steps, values = zip(*((point.step, point.value) for point in run.curve), strict=True)
            axes.plot(steps, values, marker="o", ms=3, label=str(run.folder))
    metrics = dict.fromkeys(run.metric for run in runs if run.metric)
    axes.set(xlabel="step", ylabel=f"validation {', '.join(metrics)}")
    axes.legend(loc="best", frameon=False, fontsize="small")
    save_figure(path, figure)
