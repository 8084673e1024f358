"""A bank of self-supervised tasks, each alive for a while and each with a soft prompt of its own.

Model and prompts are trained together, so the model becomes one that a prompt found by gradient
descent can steer. Tasks are born and replaced all the time: with a fixed set the model would learn
the tasks, and not to follow a prompt. A task is a function of (seed, slot, generation) and a batch
of (seed, step), which is all that resuming needs.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from prompt_jax.config import InputError
from prompt_jax.pretrain import objectives
from prompt_jax.pretrain.config import PretrainConfig
from prompt_jax.pretrain.corpus import EOS, NUM_SENTINELS, padded
from prompt_jax.pretrain.space import Space, direction

POOL = 3000
ANSWER_TOKENS = 4
RATED = 0.15
"""Share of two-sided classifiers that ask for the rating of words, where there is a lexicon."""
CLASSIFY, REWRITE = 0, 1


class Material(NamedTuple):
    """What tasks are made of."""

    texts: list[list[int]]
    """Token lists that end with EOS."""
    strings: list[str]
    space: Space
    words: list[list[int]]
    """Label words as token lists, the most frequent ones first."""
    punctuation: list[int]
    encode: Callable[[str], list[int]]
    pieces: int
    """Vocabulary size without sentinels."""
    ratings: Float[np.ndarray, " N"] | None = None
    """For every text, the sum of its words' ratings over the root of its length."""


class Classifier(NamedTuple):
    """Texts on every side of an invented border, and the word that names each side."""

    sides: list[Int[np.ndarray, " _"]]
    words: list[list[int]]


Rewriter: TypeAlias = Callable[[int, np.random.Generator], objectives.Pair]
"""A text-to-text task: the source and the target that it makes of a text."""
Task: TypeAlias = Classifier | Rewriter


class Batch(NamedTuple):
    """Rows of several tasks; `slots` says whose prompt stands before a row."""

    slots: Int[np.ndarray, " B"]
    tokens: Int[np.ndarray, "B T"]
    targets: Int[np.ndarray, "B U"]
    places: Float[np.ndarray, "B Z"]
    """Where the texts stand in the word space; zero in batches of rewriting."""
    answers: list[list[int]]
    """The first piece of every label word, a list for each task; empty for rewriting."""


def generation(config: PretrainConfig, slot: int, step: int) -> int:
    """How many tasks the slot has had before; births are spread evenly over the steps."""
    return (step + slot * config.slot_steps // config.slots) // config.slot_steps


def kind_of(config: PretrainConfig, step: int) -> int:
    """CLASSIFY or REWRITE: what a step trains on."""
    # Draws of one seed are kept apart by a second number: 1 for kinds, 2 for tasks, 3 for batches
    # and, in `run`, 4 for the words that prompts start from.
    rng = np.random.default_rng((config.seed, 1, step))
    return CLASSIFY if rng.random() < config.classify_share else REWRITE


def usable(material: Material, config: PretrainConfig) -> Int[np.ndarray, " N"]:
    """The texts that classifiers are asked about."""
    lengths = np.array([len(row) for row in material.texts])
    texts = np.flatnonzero((lengths > 3) & (lengths <= config.text_tokens))
    if len(texts) < 50:
        raise InputError(
            f"only {len(texts)} texts have 4 to {config.text_tokens} tokens, at least 50 are "
            "needed; give more text or a larger text_tokens"
        )
    return texts


def classifier(
    material: Material, pool: Int[np.ndarray, " N"], most: int, rng: np.random.Generator
) -> Classifier:
    """An invented classifier of 2 to `most` classes.

    Texts near a border are left out: nobody could tell their side. Two-sided ones are balanced by
    taking equal shares of both ends of a direction.
    """
    drawn = rng.choice(pool, min(POOL, len(pool)), replace=False)
    stood = material.space.texts[drawn]
    if most == 2 or rng.random() < 0.6:
        score = stood @ direction(material.space, rng)
        if material.ratings is not None and rng.random() < RATED:
            score = rng.choice([-1.0, 1.0]) * material.ratings[drawn]
        order = np.argsort(score, kind="stable")
        share = max(1, int(len(order) * rng.choice([0.2, 0.35, 0.45])))
        sides = [drawn[order[:share]], drawn[order[-share:]]]
    else:
        sides = _neighbourhoods(material.space, drawn, int(rng.integers(3, most + 1)), rng)
    tops = rng.choice([500, 4000, len(material.words)], size=len(sides))
    words = [material.words[int(rng.integers(min(len(material.words), top)))] for top in tops]
    return Classifier(sides, words)


def _neighbourhoods(
    space: Space, drawn: np.ndarray, count: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """The texts nearest to each of `count` landmarks, less the four tenths least clearly so."""
    landmarks = (*space.centres, space.texts[rng.choice(space.short, 2 * count)])
    chosen = landmarks[rng.integers(len(landmarks))]
    points = chosen[rng.choice(len(chosen), count, replace=len(chosen) < count)]
    near = space.texts[drawn] @ (points / np.linalg.norm(points, axis=1, keepdims=True)).T
    near = (near - near.mean(0)) / (near.std(0) + 1e-6)
    ranked, best = np.sort(near, axis=1), near.argmax(1)
    margin = ranked[:, -1] - ranked[:, -2]
    members = [np.flatnonzero(best == k) for k in range(count)]
    clear = [m[np.argsort(-margin[m])][: max(1, int(0.6 * len(m)))] for m in members if len(m)]
    return [drawn[m] for m in clear]


def rewriter(material: Material, rng: np.random.Generator) -> Rewriter:
    """A text-to-text task, drawn once and then applied to texts: `rewrite(index, rng)`."""
    kinds: Sequence[Callable[..., Rewriter]]
    kinds = (_copying, _substituting, _modernising, _restoring, _tokenwise)
    return kinds[rng.choice(len(kinds), p=[0.1, 0.3, 0.2, 0.1, 0.3])](material, rng)


def _copying(material: Material, rng: np.random.Generator) -> Rewriter:
    return lambda index, rng: (material.texts[index][:-1], material.texts[index][:-1])


def _substituting(material: Material, rng: np.random.Generator) -> Rewriter:
    # Rules for words that texts really have: those of a few drawn texts, so frequent ones mostly.
    words = [t for i in rng.integers(len(material.texts), size=12) for t in material.texts[i][:-1]]
    targets = [word[0] for word in material.words[:4000] if len(word) == 1] or words
    names = rng.permutation(sorted(set(words)))[: int(rng.integers(2, 25))]
    rules = [(int(name), int(rng.choice(targets))) for name in names]
    return lambda index, rng: objectives.substitute(material.texts[index][:-1], rules)


def _modernising(material: Material, rng: np.random.Generator) -> Rewriter:
    backwards = rng.random() < 0.3

    def rewrite(index: int, rng: np.random.Generator) -> objectives.Pair:
        today = objectives.modernised(material.strings[index])
        old = objectives.archaised(today, rng)
        source, target = (today, old) if backwards else (old, today)
        return material.encode(source), material.encode(target)

    return rewrite


def _restoring(material: Material, rng: np.random.Generator) -> Rewriter:
    def rewrite(index: int, rng: np.random.Generator) -> objectives.Pair:
        text = material.strings[index]
        return material.encode(objectives.without_case(text)), material.encode(text)

    return rewrite


def _tokenwise(material: Material, rng: np.random.Generator) -> Rewriter:
    sentinels = [material.pieces + NUM_SENTINELS - 1 - i for i in range(20)]
    marks = material.punctuation
    kind = rng.integers(4)

    def rewrite(index: int, rng: np.random.Generator) -> objectives.Pair:
        tokens = material.texts[index][:-1]
        if kind == 0:
            return objectives.span_corruption(tokens, sentinels, rng)
        if kind == 1:
            return objectives.prefix_lm(tokens, rng)
        if kind == 2 and marks:
            return objectives.change_punctuation(tokens, marks, rng)
        return objectives.swap_neighbours(tokens, rng)

    return rewrite


class Bank:
    """The tasks alive at a step; remembers them only so as not to draw them again."""

    def __init__(self, material: Material, config: PretrainConfig):
        self._material, self._config = material, config
        self._pool = usable(material, config)
        lengths = np.array([len(row) for row in material.texts])
        self._pairs = np.flatnonzero((lengths > 3) & (lengths < config.pair_tokens))
        self._tasks: dict[tuple[int, int], tuple[int, Task]] = {}

    def task(self, kind: int, slot: int, step: int) -> Task:
        """The task of a slot: a `Classifier`, or what `rewriter` gives."""
        born = generation(self._config, slot, step)
        age, task = self._tasks.get((kind, slot), (-1, None))
        if task is None or age != born:
            rng = np.random.default_rng((self._config.seed, 2, kind, slot, born))
            if kind == CLASSIFY:
                task = classifier(self._material, self._pool, self._config.most_classes, rng)
            else:
                task = rewriter(self._material, rng)
            self._tasks[kind, slot] = born, task
        return task

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step; slots of rewriting are numbered after those of classifiers."""
        config, kind = self._config, kind_of(self._config, step)
        rng = np.random.default_rng((config.seed, 3, step))
        slots = rng.choice(config.slots, config.slots_per_step, replace=False)
        rows = [(int(slot), row) for slot in slots for row in range(config.rows_per_slot)]
        tasks = {int(slot): self.task(kind, int(slot), step) for slot in slots}
        drawn = [self._drawn(tasks[slot], row, rng) for slot, row in rows]
        texts, targets, places = zip(*drawn, strict=True)
        widths = (config.text_tokens, ANSWER_TOKENS)
        if kind == REWRITE:
            widths = (config.pair_tokens, config.pair_tokens)
        return Batch(
            np.array([slot + kind * config.slots for slot, _ in rows], np.int32),
            padded(texts, widths[0]),
            padded(targets, widths[1]),
            np.stack(places),
            [_answers(task) for task in tasks.values()],
        )

    def _drawn(self, task: Task, row: int, rng: np.random.Generator) -> tuple:
        """A text, its target and its place."""
        if isinstance(task, Classifier):
            return self._classified(task, row, rng)
        return self._rewritten(task, rng)

    def _classified(self, task: Classifier, row: int, rng: np.random.Generator) -> tuple:
        side = (row + int(rng.integers(len(task.sides)))) % len(task.sides)
        index = int(rng.choice(task.sides[side]))
        target = [*task.words[side][: ANSWER_TOKENS - 1], EOS]
        return self._material.texts[index], target, self._material.space.texts[index]

    def _rewritten(self, task: Rewriter, rng: np.random.Generator) -> tuple:
        longest = self._config.pair_tokens - 1
        source, target = task(int(rng.choice(self._pairs)), rng)
        nowhere = np.zeros(self._material.space.texts.shape[1], np.float32)
        return [*source[:longest], EOS], [*target[:longest], EOS], nowhere


def _answers(task: Task) -> list[int]:
    return [word[0] for word in task.words] if isinstance(task, Classifier) else []
