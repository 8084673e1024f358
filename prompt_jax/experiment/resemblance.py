"""How near a student comes to its teacher, beside what a text is worth that is cut short."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from prompt_jax.answers import answer
from prompt_jax.answers.distilled import fidelity
from prompt_jax.backbones import Backbone
from prompt_jax.config import Config
from prompt_jax.data import encode
from prompt_jax.evaluate import Evaluation
from prompt_jax.experiment.questions import with_context, without_context
from prompt_jax.experiment.splits import Data
from prompt_jax.experiment.teacher import ALL, Teacher
from prompt_jax.forward import Injection
from prompt_jax.metrics import Scores, measure
from prompt_jax.tasks import Example, Lesson
from prompt_jax.tasks.task import check_some

TEACHER, WITHOUT = "frozen model, with the text", "frozen model, no text"
COLUMNS = {"kl": "KL", "agreement": "same word", "chrf": "chrF", "exact_match": "same answer"}
"""Metrics of the report, and the heads of their columns."""


class Way(NamedTuple):
    """A model that answers in the place of the teacher."""

    injection: Injection | None
    sources: Callable[[Sequence[Example]], list[str]]
    """What it reads for each question."""


def lessons_of(examples: Sequence[Example]) -> list[Lesson]:
    """The lessons of questions that a teacher has answered."""
    return [example.lesson for example in examples if example.lesson is not None]


def evaluate_lessons(
    backbone: Backbone, injection: Injection | None, examples: Sequence[Example], config: Config
) -> Evaluation:
    """How a prompt keeps to the teacher's lessons; nothing is written."""
    check_some(examples, "evaluate")
    sources = [example.source for example in examples]
    rows = encode(backbone.tokenizer, sources, config.data.max_source_length)
    scores = fidelity(backbone, injection, rows, lessons_of(examples), config.scoring)
    return Evaluation(scores, [example.target for example in examples], None, None)


def questions(examples: Sequence[Example]) -> list[str]:
    """The questions alone."""
    return [example.source for example in examples]


class Resemblance(NamedTuple):
    """How near each of several ways to answer comes to the teacher."""

    results: dict[str, dict[str, Scores]]
    """Way -> set of held-out questions -> metrics."""
    tokens: dict[str, float]
    """Way -> mean tokens of a request."""

    def beside(self, others: "Resemblance") -> "Resemblance":
        """Both together, these first."""
        return Resemblance(self.results | others.results, self.tokens | others.tokens)


def plain_ways(teacher: Teacher) -> dict[str, Way]:
    """The frozen model with the text, and without."""
    return {
        TEACHER: Way(None, lambda examples: list(teacher.sources(examples))),
        WITHOUT: Way(None, lambda examples: [without_context(e.source) for e in examples]),
    }


def short_ways(teacher: Teacher, length: int) -> dict[str, Way]:
    """The frozen model with so many tokens of the text; none of a method without virtual tokens."""
    tokenizer = teacher.backbone.tokenizer

    def cut(part: slice) -> Callable[[Sequence[Example]], list[str]]:
        def sources(examples: Sequence[Example]) -> list[str]:
            texts = questions(examples)
            rows = [
                tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][part]
                for text in teacher.parts(texts)
            ]
            return [
                with_context(text, tokenizer.decode(row), in_system=teacher.in_system)
                for text, row in zip(texts, rows, strict=True)
            ]

        return sources

    parts = {"first": slice(length), "last": slice(-length, None)} if length else {}
    return {f"its {name} {length} tokens": Way(None, cut(part)) for name, part in parts.items()}


def resemblance(teacher: Teacher, data: Data, ways: Mapping[str, Way]) -> Resemblance:
    """Metrics by way and set of held-out questions, and the tokens of a request by way."""
    config, backbone = teacher.config, teacher.backbone
    sets = {"validation": data.validation, **data.tests}
    results: dict[str, dict[str, Scores]] = {}
    tokens: dict[str, float] = {}
    for name, way in ways.items():
        positions = 0 if way.injection is None else way.injection.positions
        # A prompt reads questions as it was trained; no text of the others is cut.
        limit = config.data.max_source_length if way.sources is questions else ALL
        for part, examples in sets.items():
            texts = way.sources(examples)
            rows = encode(backbone.tokenizer, texts, limit)
            lessons = lessons_of(examples)
            scores = fidelity(backbone, way.injection, rows, lessons, config.scoring)
            targets = [example.target for example in examples]
            long = dataclasses.replace(config.data, max_source_length=limit)
            how = {"data": long, "eval": config.scoring}
            answers = answer(backbone, way.injection, texts, data.task, **how).predictions
            written = measure(data.task.metrics, answers, targets)
            results.setdefault(name, {})[part] = Scores({**scores, **written}, scores.deciding)
            tokens.setdefault(name, positions + float(np.mean([len(row) for row in rows])))
    return Resemblance(results, tokens)


def table(resemblance: Resemblance) -> list[list[str]]:
    """Rows of cells: a row a way, the metrics of every set, and the tokens of a request."""
    results, tokens = resemblance
    sets = next(iter(results.values()))
    names = list(next(iter(sets.values())))
    prefixes = {part: f"{part} " if len(sets) > 1 else "" for part in sets}
    heads = [f"{prefixes[part]}{COLUMNS.get(name, name)}" for part in sets for name in names]
    rows = [["held-out questions", *heads, "tokens"]]
    for way, scores in results.items():
        cells = [f"{scores[part][name]:.3f}" for part in sets for name in names]
        rows.append([way, *cells, f"{tokens[way]:.0f}"])
    return rows
