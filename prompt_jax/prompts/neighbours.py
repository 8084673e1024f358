"""What a prompt looks like: its nearest words, how alike its rows are, and a page about both."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Array, Float

from prompt_jax import disk
from prompt_jax.backbones import Backbone
from prompt_jax.backbones.vocabulary import readable
from prompt_jax.config import InputError, at_least, check_place, choose, to_json
from prompt_jax.prompts.card import flat
from prompt_jax.prompts.multitask import task_names
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.trees import Tokenizer

Measure = Literal["cosine", "l2"]
CAVEAT = (
    "Neighbours are not explanations: a prompt works through attention, trained rows lie far from "
    "all words, and prompts with other neighbours can work as well."
)


def nearest_words(
    rows: Float[Array | np.ndarray, "P D"],
    table: Float[Array | np.ndarray, "V _"],
    tokenizer: Tokenizer | None,
    k: int = 5,
    by: str = "cosine",
) -> list[list[tuple[str, float]]]:
    """The k words of the vocabulary nearest to every row, as texts, nearest first.

    Args:
      table: the embedding table; rows that pad it beyond the tokenizer's vocabulary are left out.
      k: how many, at most the vocabulary.
      by: `cosine` gives similarities, the largest first; `l2` distances, the smallest first.
    """
    choose("measure", by, get_args(Measure))
    at_least("k", k, 1)
    if tokenizer is None:
        raise InputError("nearest words need a tokenizer and this backbone has none")
    rows, words = np.asarray(rows, np.float32), np.asarray(table, np.float32)[: len(tokenizer)]
    if rows.shape[1] != words.shape[1]:
        raise InputError(f"the rows are {rows.shape[1]} wide and the words {words.shape[1]}")
    products = _unit(rows) @ _unit(words).T if by == "cosine" else rows @ words.T
    # Half the squared distance, up to a constant of the row: its order, but not its precision.
    far = -products if by == "cosine" else (words**2).sum(1) / 2 - products
    neighbours = []
    for row, ids in zip(rows, np.argsort(far, axis=1, kind="stable")[:, :k], strict=True):
        near = words[ids]
        scores = _unit(near) @ _unit(row[None])[0] if by == "cosine" else _norm(near - row)
        names = readable(tokenizer, ids.tolist())
        neighbours.append(list(zip(names, scores.tolist(), strict=True)))
    return neighbours


def similarity(rows: Float[Array | np.ndarray, "P D"]) -> Float[np.ndarray, "P P"]:
    """Cosine between every two rows; rows that collapsed onto each other show as blocks of ones."""
    unit = _unit(np.asarray(rows, np.float32))
    return unit @ unit.T


def _unit(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    # A row of zeros has no direction: it stays zeros instead of becoming NaN.
    return rows / np.maximum(_norm(rows)[:, None], 1e-12)


def _norm(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
    return np.linalg.norm(rows, axis=1)


def inspect(prompt: Prompt, backbone: Backbone, *, k: int = 3, allow_mismatch: bool = False) -> str:
    """A page of text: identity, scores, and the nearest words of every row by both measures.

    Args:
      k: neighbours of a row.
      allow_mismatch: as for `Prompt.on`.
    """
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

    prompt = prompt.on(backbone, allow_mismatch=allow_mismatch)
    facts = Table(box=None, show_header=False)
    for name, value in _facts(prompt).items():
        facts.add_row(name, Text(str(value)))
    parts: list[Table | Text] = [facts]
    if prompt.method.rows_only:
        rows = np.concatenate(list(prompt.own_arrays.values()))
        words = Table("row", "norm", "nearest by cosine", "nearest by L2 distance")
        for cells in _neighbours(rows, backbone, k):
            words.add_row(*map(Text, cells))
        parts += [words, Text(CAVEAT)]
    out = io.StringIO()
    # In a notebook's kernel rich would show the page in the cell, and write nothing.
    console = Console(file=out, width=100, color_system=None, force_jupyter=False)
    console.print(Group(*parts))
    return out.getvalue()


def _neighbours(rows: np.ndarray, backbone: Backbone, k: int) -> Iterator[tuple[str, ...]]:
    """The cells of every row: its number, its norm, and its nearest words by both measures."""
    measured = [
        nearest_words(rows, backbone.table, backbone.tokenizer, k, by) for by in get_args(Measure)
    ]
    for i, (cosine, l2) in enumerate(zip(*measured, strict=True)):
        yield str(i), f"{np.linalg.norm(rows[i]):.2f}", _phrase(cosine), _phrase(l2)


def _facts(prompt: Prompt) -> dict[str, object]:
    facts = {
        "name": prompt.name,
        **{f"task {i}": name for i, name in enumerate(task_names(prompt))},
        "digest": prompt.digest,
        "backbone": prompt.backbone,
        "fingerprint": prompt.fingerprint,
        **dict(flat(to_json(prompt.trained_method), "method.")),
        "parameters": f"{prompt.size:,}",
        "seed": prompt.seed,
        **dict(flat(to_json(prompt.task) if prompt.task else {}, "task.")),
        **dict(flat(prompt.metrics)),
    }
    return {name: "unknown" if value in (None, "") else value for name, value in facts.items()}


def _phrase(words: list[tuple[str, float]]) -> str:
    # In quotes, as a word often begins with a space.
    return "  ".join(f"{word!r} {score:.2f}" for word, score in words)


def draw_similarity(prompt: Prompt, path: str | Path) -> Path:
    """Draws `similarity` as a heat map, a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    check_place(path)
    path = Path(path)
    figure = Figure(figsize=(6, 5), layout="constrained")
    # Agg needs no display, and without pyplot there is no global state.
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(similarity(prompt.rows), vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set_title(f"Similarity of virtual tokens: {prompt.label}")
    axes.set_xlabel("virtual token")
    axes.set_ylabel("virtual token")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, label="cosine")
    with disk.replacing(path) as fresh:
        figure.savefig(fresh, format="png", dpi=120)
    return path
