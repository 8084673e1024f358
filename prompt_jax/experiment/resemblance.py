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


def ways_of(teacher: Teacher, length: int) -> dict[str, Way]:
    """What a prompt is compared with.

    Args:
      length: virtual tokens of the prompt, and so the words of the text that may be kept; 0 of a
        method that has none.
    """
    tokenizer = teacher.backbone.tokenizer

    def kept(part: slice) -> Callable[[Sequence[Example]], list[str]]:
        def sources(examples: Sequence[Example]) -> list[str]:
            texts = questions(examples)
            parts = [
                tokenizer(p, add_special_tokens=False)["input_ids"][part]
                for p in teacher.parts(texts)
            ]
            return [
                with_context(text, tokenizer.decode(tokens), in_system=teacher.in_system)
                for text, tokens in zip(texts, parts, strict=True)
            ]

        return sources

    ways = {
        TEACHER: Way(None, lambda examples: list(teacher.sources(examples))),
        WITHOUT: Way(None, lambda examples: [without_context(e.source) for e in examples]),
    }
    if length:
        ways[f"its first {length} tokens"] = Way(None, kept(slice(length)))
        ways[f"its last {length} tokens"] = Way(None, kept(slice(-length, None)))
    return ways


def resemblance(
    teacher: Teacher, data: Data, ways: Mapping[str, Way]
) -> tuple[dict[str, dict[str, Scores]], dict[str, float]]:
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
    return results, tokens


def table(
    results: Mapping[str, Mapping[str, Scores]], tokens: Mapping[str, float]
) -> list[list[str]]:
    """Rows of cells: a row a way, the metrics of every set, and the tokens of a request."""
    sets = list(next(iter(results.values())))
    names = list(next(iter(next(iter(results.values())).values())))
    prefixes = {part: f"{part} " if len(sets) > 1 else "" for part in sets}
    heads = [f"{prefixes[part]}{COLUMNS.get(name, name)}" for part in sets for name in names]
    rows = [["held-out questions", *heads, "tokens"]]
    for way, scores in results.items():
        cells = [f"{scores[part][name]:.3f}" for part in sets for name in names]
        rows.append([way, *cells, f"{tokens[way]:.0f}"])
    return rows
