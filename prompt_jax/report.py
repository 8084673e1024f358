"""What a run tells at its end: a table, a curve, the nearest words, and report.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompt_jax.runs import write_text


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
    figure.savefig(path, dpi=120)


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
    figure.savefig(path, dpi=120)


def write_report(
    path: Path, *, title: str, facts: dict[str, Any], rows: Sequence[Sequence[str]], words: str
) -> None:
    """report.md: facts, the table of results, the curve and the nearest words."""
    lines = [f"# {title}", "", markdown(rows), "", "![curve](curve.png)", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "```", words.strip(), "```", ""]
    write_text(path, "\n".join(lines))
