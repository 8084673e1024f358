"""What a run tells at its end: a table, a curve, the nearest words, and report.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prompt_jax import disk
from prompt_jax.metrics import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:  # Matplotlib is imported where something is drawn.
    Figure = object


class Candidate(NamedTuple):
    """A line of the table of a sweep."""

    number: int
    choices: dict[str, float | str]
    """What sets it apart from other candidates, by field."""
    steps: int
    score: float
    """Its best on validation; -inf where it never had a prompt of finite numbers."""
    best_step: int

    @property
    def row(self) -> list[float | str | None]:
        """The line for programs; its score is None instead of -inf, which is no JSON."""
        score = None if self.score == float("-inf") else self.score
        return [self.number, *self.choices.values(), self.steps, score, self.best_step]

    @property
    def cells(self) -> list[str]:
        """The line as it is printed."""
        chosen = map(_text, self.choices.values())
        return [
            str(self.number),
            *chosen,
            str(self.steps),
            f"{self.score:.3f}",
            str(self.best_step),
        ]


def table(results: Mapping[str, Mapping[str, Scores]]) -> list[list[str]]:
    """Rows of cells: a column a test set, a row a way to answer, the deciding metric in each.

    Args:
      results: way to answer -> test set -> metrics.
    """
    deciding = {name: scores.deciding for sets in results.values() for name, scores in sets.items()}
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


def new_figure(width: float, height: float) -> Figure:
    """An empty picture of so many inches, that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a picture as a PNG."""
    with disk.replacing(path) as fresh:
        figure.savefig(fresh, dpi=120)


def draw_curve(
    path: Path,
    rows: Sequence[dict[str, float]],
    metric: str,
    rival: tuple[str, float] | None = None,
) -> None:
    """Training loss and validation metric over steps, as a PNG.

    Args:
      rows: the rows of the run's metrics.
      metric: name of the validation metric.
      rival: a way to answer without a prompt and its score, drawn as a line to beat.
    """
    figure = new_figure(8, 4.5)
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
    save_figure(path, figure)


def draw_methods(
    path: Path,
    points: Sequence[tuple[str, int, float]],
    metric: str,
    levels: Mapping[str, float],
) -> None:
    """A score over the parameters trained for it, as a PNG.

    Args:
      points: name of the method, parameters trained, score.
      metric: name of the score.
      levels: ways to answer without any and their scores, drawn as lines to beat.
    """
    figure = new_figure(8, 5)
    axes = figure.subplots()
    for name, level in levels.items():
        axes.axhline(level, color="tab:red", ls="--", lw=1)
        place = {"va": "bottom", "transform": axes.get_yaxis_transform()}
        axes.text(0.01, level, name, color="tab:red", **place)
    for name, trained, score in points:
        axes.plot(trained, score, "o", color="tab:blue")
        axes.annotate(name, (trained, score), xytext=(5, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="trained parameters", ylabel=metric)
    axes.margins(x=0.2)
    save_figure(path, figure)


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, object],
    rows: Sequence[Sequence[str]],
    words: str,
) -> None:
    """report.md: facts, the table of results, the curve and the nearest words."""
    lines = [f"# {title}", "", markdown(rows), "", "![curve](curve.png)", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "```", words.strip(), "```", ""]
    disk.write(path, "\n".join(lines))


def draw_sweep(
    path: Path,
    candidates: Sequence[Candidate],
    curves: Sequence[Sequence[dict[str, float]]],
    metric: str,
) -> None:
    """Candidates as lines over what they are and reach, and their learning curves, as a PNG.

    Args:
      candidates: all of them, the best first.
      curves: rows of metrics of every candidate, by its own steps.
      metric: name of the validation metric.
    """
    from matplotlib import colormaps

    # The best is drawn last, over all others.
    order = sorted(candidates, key=lambda candidate: candidate.score)
    scores = [c.score for c in order if c.score > float("-inf")] or [0.0]
    low, span = scores[0], max(scores[-1] - scores[0], 1e-9)
    heights = {c.number: (c.score - low) / span for c in order}
    colours = {i: colormaps["viridis"](max(0.0, height)) for i, height in heights.items()}
    widths = {c.number: 3 if c is order[-1] else 1.2 for c in order}
    figure = new_figure(13, 5)
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    names = list(order[0].choices)
    places = [_places([c.choices[name] for c in order]) for name in names]
    for c in order:
        line = [place[c.choices[name]] for name, place in zip(names, places, strict=True)]
        line.append(heights[c.number])
        left.plot(line, color=colours[c.number], lw=widths[c.number], alpha=0.9)
    ends = {f"{c.score:.3f}": heights[c.number] for c in (order[0], order[-1])}
    marks = [{_text(value): at for value, at in place.items()} for place in places]
    for x, heights_of in enumerate([*marks, ends]):
        left.axvline(x, color="0.8", lw=1, zorder=0)
        for text, at in heights_of.items():
            left.annotate(text, (x, at), xytext=(4, 2), textcoords="offset points", size=8)
    titles = [name.replace("_", " ") for name in (*names, "score")]
    left.set(xticks=range(len(titles)), xticklabels=titles, yticks=[])
    left.set_xlim(-0.1, len(titles) - 0.6)
    left.spines[["top", "right", "left", "bottom"]].set_visible(False)
    name = f"validation/{metric}"
    for i in (c.number for c in order):
        points = [(row["step"], row[name]) for row in curves[i] if name in row]
        if points:
            style = {"color": colours[i], "lw": widths[i], "marker": "o", "ms": 3}
            right.plot(*zip(*points, strict=True), **style)
            right.annotate(str(i), points[-1], xytext=(4, 0), textcoords="offset points", size=8)
    right.set(xlabel="step", ylabel=f"validation {metric}")
    save_figure(path, figure)


def _places(values: Sequence[float | str]) -> dict[float | str, float]:
    """Evenly spaced heights of different values, numbers in their order."""
    different = sorted(set(values), key=lambda v: (isinstance(v, str), v))
    return {value: i / max(len(different) - 1, 1) for i, value in enumerate(different)}


def _text(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
