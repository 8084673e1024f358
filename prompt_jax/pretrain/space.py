"""The space of word meanings that invented classifiers are cut from.

It is that of the token table: a text stands at the mean of its rows, so no model has to be run
over the corpus. A linear classifier on such means is a strong baseline on short texts, and it is
what a frozen model must be able to imitate when a prompt tells it the direction.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from prompt_jax.config import InputError
from prompt_jax.pretrain.corpus import EOS

SAMPLE = 30_000


class Space(NamedTuple):
    """Where texts stand, and the landmarks that directions are taken from."""

    texts: Float[np.ndarray, "N Z"]
    spread: Float[np.ndarray, " Z"]
    """Standard deviation of every coordinate; they are principal ones, so it falls."""
    centres: tuple[Float[np.ndarray, "_ Z"], ...]
    """Cluster centres, coarse to fine."""
    short: Int[np.ndarray, " M"]
    """Texts of few tokens: directions between them are directions between words."""


def build_space(
    table: Float[np.ndarray, "V D"], texts: Sequence[Sequence[int]], *, seed: int = 0
) -> Space:
    """The space of a token table: mean rows, in half-whitened principal coordinates.

    Half-whitened, because the widest directions of word vectors are those of topic, and what
    people ask of a text (is it good, is it meant) lies in narrower ones.
    """
    width = table.shape[1]
    if len(texts) < 2 * width:
        raise InputError(
            f"{len(texts)} texts are too few for a space of {width} dimensions; "
            f"give at least {2 * width}, by more files or larger shares"
        )
    means = np.stack([table[[t for t in row if t != EOS]].mean(0) for row in texts])
    means -= means.mean(0)
    _, sizes, axes = np.linalg.svd(means[:SAMPLE], full_matrices=False)
    wide = sizes > 1e-3 * sizes[0]  # a coordinate in which all words agree tells no two texts apart
    deviation = sizes[wide] / np.sqrt(min(len(means), SAMPLE))
    stood = means @ (axes[wide].T / np.sqrt(deviation))
    stood = (stood / np.sqrt(np.mean(stood[:SAMPLE] ** 2))).astype(np.float32)
    rng = np.random.default_rng(seed)
    sample = stood[rng.permutation(len(stood))[:20_000]]
    centres = tuple(clusters(sample, k, rng) for k in (8, 30, 120, 400) if 4 * k <= len(sample))
    lengths = np.array([len(row) for row in texts])
    short = np.flatnonzero(lengths <= max(5, np.quantile(lengths, 0.03)))
    return Space(stood, stood.std(0), centres, short)


def clusters(
    points: Float[np.ndarray, "N Z"], count: int, rng: np.random.Generator, *, steps: int = 8
) -> Float[np.ndarray, "C Z"]:
    """k-means by Lloyd's steps from random points; an empty cluster keeps its centre."""
    centres = points[rng.choice(len(points), count, replace=False)]
    for _ in range(steps):
        nearest = (points @ centres.T - 0.5 * (centres**2).sum(1)[None]).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, points)
        counts = np.bincount(nearest, minlength=count)[:, None]
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres)
    return centres


def direction(space: Space, rng: np.random.Generator) -> Float[np.ndarray, " Z"]:
    """A direction worth asking about: between words, texts or clusters, or a random one."""
    kind, size = rng.random(), space.texts.shape[1]
    if kind < 0.45:
        pool = space.short if kind < 0.25 else np.arange(len(space.texts))
        count = int(rng.choice([1, 2, 4, 8]))
        ends = [space.texts[rng.choice(pool, count)].mean(0) for _ in range(2)]
        axis = ends[0] - ends[1]
    elif kind < 0.85:
        axis = rng.normal(size=size) * space.spread ** rng.choice([0.0, 0.5, 1.0, 2.0])
    else:
        centres = space.centres[rng.integers(len(space.centres))]
        first, second = rng.choice(len(centres), 2, replace=False)
        axis = centres[first] - centres[second]
    if rng.random() < 0.4:
        axis = axis * (space.spread.mean() / space.spread) ** 2  # as Fisher's discriminant does
    return axis.astype(np.float32)
