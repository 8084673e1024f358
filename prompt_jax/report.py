"""What a run tells at its end: a table, a curve, the nearest words, and report.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompt_jax import disk


def table(results: dict[str, dict[str, dict[str, float]]]) -> list[list[str]]:
    """Rows of cells: a column a test set, a row a way to answer, the deciding metric in each.

    Args:
      results: way to answer -> test set -> metric name -> value, the deciding metric first.
    """
    deciding = {name: next(iter(m)) for sets in results.values() for name, m in sets.items()}
    alike = len(set(deciding.values())) == 1
    names = list(deciding)
    head = names if alike else [f"{name} ({metric})" for name, metric in deciding.items()]
    rows = [[next(iter(deciding.values())) if alike else "score", *head]]
    for way, sets in results.items():
        cells = (f"{sets[n][deciding[n]]:.3f}" if n in sets else "" for n in names)
        rows.append([way, *cells])
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table of cells, the first row its head, as Markdown."""
    head, *body = rows
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])


def draw_curve(
    path: Path,
    rows: Sequence[dict[str, float]],
    metric: str,
    rival: tuple[str, float] | None = None,
) -> None:
    """Training loss and validation metric over steps, as a PNG.

    Args:
      path: the file.
      rows: the rows of the run's metrics.
      metric: name of the validation metric.
      rival: a way to answer without a prompt and its score, drawn as a line to beat.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses = figure.subplots()
    steps = [row["step"] for row in rows if "loss" in row]
    losses.plot(steps, [row["loss"] for row in rows if "loss" in row], color="0.75", lw=1)
    losses.set(xlabel="step", ylabel="training loss (nats)", ylim=(0, None))
    scores = losses.twinx()
    name = f"validation/{metric}"
    points = [(row["step"], row[name]) for row in rows if name in row]
    scores.plot(*zip(*points, strict=True), color="tab:blue", marker="o", ms=4, label="tuned")
    if rival is not None:
        scores.axhline(rival[1], color="tab:red", ls="--", lw=1, label=rival[0])
    scores.set_ylabel(f"validation {metric}", color="tab:blue")
    scores.legend(loc="center right", frameon=False)
    with disk.replacing(path) as fresh:
        figure.savefig(fresh, dpi=120)


def draw_methods(
    path: Path,
    points: Sequence[tuple[str, int, float]],
    metric: str,
    rival: tuple[str, float],
) -> None:
    """A score over the numbers trained for it, as a PNG.

    Args:
      path: the file.
      points: name of the method, numbers trained, score.
      metric: name of the score.
      rival: a way to answer without any and its score, drawn as a line to beat.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    name, level = rival
    axes.axhline(level, color="tab:red", ls="--", lw=1)
    axes.text(
        0.01,
        level,
        name,
        color="tab:red",
        va="bottom",
        transform=axes.get_yaxis_transform(),
    )
    for name, trained, score in points:
        axes.plot(trained, score, "o", color="tab:blue")
        axes.annotate(name, (trained, score), xytext=(5, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="numbers trained", ylabel=metric)
    axes.margins(x=0.2)
    with disk.replacing(path) as fresh:
        figure.savefig(fresh, dpi=120)


def write_report(
    path: Path, *, title: str, facts: dict[str, Any], rows: Sequence[Sequence[str]], words: str
) -> None:
    """report.md: facts, the table of results, the curve and the nearest words."""
    lines = [f"# {title}", "", markdown(rows), "", "![curve](curve.png)", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "```", words.strip(), "```", ""]
    disk.write(path, "\n".join(lines))


def draw_sweep(
    path: Path,
    cells: Sequence[Sequence[str]],
    curves: Sequence[Sequence[dict[str, float]]],
    metric: str,
) -> None:
    """Candidates as lines over what they are and reach, and their learning curves, as a PNG.

    Args:
      path: the file.
      cells: the table of a sweep: `candidate`, what was chosen, and from `steps` on what came out.
      curves: rows of metrics of every candidate, by its own steps.
      metric: name of the validation metric.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    head, *rows = cells
    names, score = [*head[1 : head.index("steps")], "score"], head.index("score")
    found = {int(row[0]): float(row[score]) for row in rows}
    real = [value for value in found.values() if value > float("-inf")] or [0.0]
    low, span = min(real), max(max(real) - min(real), 1e-9)
    colours = {i: colormaps["viridis"](max(0.0, (v - low) / span)) for i, v in found.items()}
    figure = Figure(figsize=(13, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    places = [_places([row[head.index(name)] for row in rows]) for name in names]
    places[-1] = {row[score]: (float(row[score]) - low) / span for row in rows}
    order = sorted(rows, key=lambda row: found[int(row[0])])
    for row in order:
        heights = [at[row[head.index(name)]] for name, at in zip(names, places, strict=True)]
        best = row is order[-1]
        left.plot(heights, color=colours[int(row[0])], lw=3 if best else 1.2, alpha=0.9)
    for x, at in enumerate(places):
        left.axvline(x, color="0.8", lw=1, zorder=0)
        ends = [order[0][score], order[-1][score]]
        for value in dict.fromkeys(at if x < len(names) - 1 else ends):
            left.annotate(value, (x, at[value]), xytext=(4, 2), textcoords="offset points", size=8)
    left.set(xticks=range(len(names)), xticklabels=[n.replace("_", " ") for n in names], yticks=[])
    left.set_xlim(-0.1, len(names) - 0.6)
    left.spines[["top", "right", "left", "bottom"]].set_visible(False)
    for row in order:
        points = [
            (each["step"], each[f"validation/{metric}"])
            for each in curves[int(row[0])]
            if f"validation/{metric}" in each
        ]
        if points:
            wide = 3 if row is order[-1] else 1.2
            right.plot(
                *zip(*points, strict=True), color=colours[int(row[0])], lw=wide, marker="o", ms=3
            )
            right.annotate(row[0], points[-1], xytext=(4, 0), textcoords="offset points", size=8)
    right.set(xlabel="step", ylabel=f"validation {metric}")
    with disk.replacing(path) as fresh:
        figure.savefig(fresh, dpi=120)


def _places(values: Sequence[str]) -> dict[str, float]:
    """Evenly spaced heights of different values, numbers in their order."""

    def key(value: str) -> tuple[bool, float, str]:
        try:
            return False, float(value), value
        except ValueError:
            return True, 0.0, value

    different = sorted(set(values), key=key)
    return {value: i / max(len(different) - 1, 1) for i, value in enumerate(different)}
