"""How near a student comes to its teacher and what it costs, beside shorter forms of the text."""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from prompt_jax.answers import answer
from prompt_jax.answers.distilled import fidelity
from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, DataConfig
from prompt_jax.data import encode
from prompt_jax.evaluate import Evaluation
from prompt_jax.experiment.questions import with_context, without_context
from prompt_jax.experiment.splits import Data
from prompt_jax.experiment.teacher import ALL, Teacher
from prompt_jax.forward import Injection
from prompt_jax.generate import read_once
from prompt_jax.metrics import Scores, measure
from prompt_jax.tasks import Example, Lesson
from prompt_jax.tasks.task import check_some

TEACHER, WITHOUT = "frozen model, with the text", "frozen model, no text"
COLUMNS = {"kl": "KL", "agreement": "same word", "chrf": "chrF", "exact_match": "same answer"}
"""Metrics of the report, and the heads of their columns."""
TIMED = 8
"""Held-out questions whose answers are timed."""


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


class Cost(NamedTuple):
    """What a request costs, in the mean over the held-out questions."""

    tokens: float
    """Of the request, virtual ones among them."""
    memory: float
    """Bytes of the keys and values of these tokens."""
    seconds: float | None
    """Median time of a request alone; None where it was not measured."""


class Resemblance(NamedTuple):
    """How near each of several ways to answer comes to the teacher."""

    results: dict[str, dict[str, Scores]]
    """Way -> set of held-out questions -> metrics."""
    costs: dict[str, Cost]

    def beside(self, others: "Resemblance") -> "Resemblance":
        """Both together, these first."""
        return Resemblance(self.results | others.results, self.costs | others.costs)


def plain_ways(teacher: Teacher) -> dict[str, Way]:
    """The frozen model with the text, and without."""
    return {
        TEACHER: Way(None, lambda examples: list(teacher.sources(examples))),
        WITHOUT: Way(None, lambda examples: [without_context(e.source) for e in examples]),
    }


def short_ways(teacher: Teacher, length: int, summaries: Mapping[str, str]) -> dict[str, Way]:
    """The frozen model with so many tokens of the text, or of a summary.

    Args:
      length: in tokens; 0 is that of a method without virtual tokens, which has no such rivals.
      summaries: of every part of the text; empty leaves this way out.
    """
    tokenizer = teacher.backbone.tokenizer

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def short(shorten: Callable[[str], list[int]]) -> Way:
        def sources(examples: Sequence[Example]) -> list[str]:
            texts = questions(examples)
            return [
                with_context(text, tokenizer.decode(shorten(part)), in_system=teacher.in_system)
                for text, part in zip(texts, teacher.parts(texts), strict=True)
            ]

        return Way(None, sources)

    if not length:
        return {}
    ways = {
        f"its first {length} tokens": short(lambda part: tokens(part)[:length]),
        f"its last {length} tokens": short(lambda part: tokens(part)[-length:]),
    }
    if summaries:
        name = f"its summary of {length} tokens"
        ways[name] = short(lambda part: tokens(summaries[part])[:length])
    return ways


def resemblance(
    teacher: Teacher, data: Data, ways: Mapping[str, Way], timed: Collection[str] = ()
) -> Resemblance:
    """Metrics by way and set of held-out questions, and the cost of a request by way.

    Args:
      timed: ways whose requests are timed.
    """
    config, backbone = teacher.config, teacher.backbone
    sets = {"validation": data.validation, **data.tests}
    results: dict[str, dict[str, Scores]] = {}
    costs: dict[str, Cost] = {}
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
            if name not in costs:
                tokens = positions + float(np.mean([len(row) for row in rows]))
                seconds = None
                if name in timed:
                    seconds = latency(teacher, data, way.injection, texts[:TIMED], long)
                costs[name] = Cost(tokens, tokens * cache_bytes(backbone), seconds)
    return Resemblance(results, costs)


def latency(
    teacher: Teacher,
    data: Data,
    injection: Injection | None,
    texts: Sequence[str],
    options: DataConfig,
) -> float:
    """Median seconds until a text is answered that is asked alone, once its program is compiled.

    A prompt in front is read before, as a server does.
    """
    backbone = teacher.backbone
    injection = read_once(backbone, injection)
    writing = dataclasses.replace(teacher.config.eval, batch_size=1)

    def seconds(text: str) -> float:
        began = time.perf_counter()
        answer(backbone, injection, [text], data.task, data=options, eval=writing)
        return time.perf_counter() - began

    for text in texts:  # Which compiles a program for each of their lengths.
        seconds(text)
    return float(np.median([seconds(text) for text in texts]))


def cache_bytes(backbone: Backbone) -> int:
    """Bytes that the keys and values of a token take in the cache of an answer."""
    # A T5 keeps those that its decoder attends to in the encoder's states.
    roles = ("cross",) if backbone.target_place == "apart" else ("encoder", "decoder")
    places = [p for p in backbone.sockets.attentions.values() if p.role in roles]
    numbers = sum(2 * place.layers * place.heads * place.width for place in places)
    return numbers * jnp.dtype(backbone.config.dtype).itemsize


def table(resemblance: Resemblance) -> list[list[str]]:
    """Rows of cells: a row a way, the metrics of every set, and the cost of a request."""
    results, costs = resemblance
    sets = next(iter(results.values()))
    names = list(next(iter(sets.values())))
    prefixes = {part: f"{part} " if len(sets) > 1 else "" for part in sets}
    heads = [f"{prefixes[part]}{COLUMNS.get(name, name)}" for part in sets for name in names]
    rows = [["held-out questions", *heads, "tokens", "bytes of keys and values", "seconds"]]
    for way, scores in results.items():
        cells = [f"{scores[part][name]:.3f}" for part in sets for name in names]
        tokens, memory, seconds = costs[way]
        time_cell = "" if seconds is None else f"{seconds:.3f}"
        rows.append([way, *cells, f"{tokens:.0f}", f"{memory:,.0f}", time_cell])
    return rows
