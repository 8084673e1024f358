"""One of the candidates that a row brings along, ranked by likelihood: COPA, PIQA, HellaSwag.

`labels` are the templates of the candidates: `{choice1}` and `{choice2}`, or one list column such
as `{endings}`. A target is the right candidate, or its number from 0: a number in the row always
is, and a text of digits is where no candidate reads like it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_jax.answers import words, written
from prompt_jax.answers.readout import Answers, Places, Program, Readout
from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.data import encode_targets, pad, padded_length
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.generate import read_once, score_candidates
from prompt_jax.sharding import on_host, place_rows
from prompt_jax.tasks import Example, Task, Text
from prompt_jax.tasks.task import Kind, filled_source, lone_column
from prompt_jax.tasks.templates import fill, parse, reach
from prompt_jax.tasks.text import Record
from prompt_jax.trees import Tokenizer


def source(task: Task, row: Record, place: str) -> Text:
    """The source, with the candidates of its row.

    Raises:
      InputError: there are fewer than two, or two are alike.
    """
    candidates = []
    for template in task.labels:
        column = parse(template)[0].column
        cell = reach(row, column, place) if column and template == f"{{{column}}}" else None
        texts = cell if isinstance(cell, list) else [fill(template, row, place, "candidate")]
        candidates += [str(text).strip() for text in texts]
    if len(set(candidates)) < max(2, len(candidates)) or not all(candidates):
        raise InputError(
            f"{place}: the candidates are {candidates}; a row needs two or more that differ, and "
            "none that is empty. Correct the row or --task.labels, which are their templates"
        )
    return filled_source(task, row, place).with_candidates(tuple(candidates))


def example(task: Task, row: Record, place: str) -> Example:
    """The source with its candidates, and the right one."""
    text = source(task, row, place)
    target = str(fill(task.target, row, place, "target"))
    candidates = text.candidates
    number = target.removesuffix(".0")
    is_place = number.isdecimal() and int(number) < len(candidates)
    readings = {candidates[int(number)]} if is_place else set()
    if target in candidates and not (readings and _is_number(task.target, row, place)):
        readings.add(target)
    if len(readings) == 1:
        return Example(text, readings.pop())
    if readings:
        raise InputError(
            f"{place}: target {target!r} is a candidate, and also the number of another one among "
            f"{', '.join(candidates)}; write the rows as .jsonl, with the target as a number from 0"
        )
    raise InputError(
        f"{place}: target {target!r} is none of the candidates {', '.join(candidates)}, nor a "
        f"number from 0 to {len(candidates) - 1}; correct the row or --task.target"
    )


def _is_number(template: str, row: Record, place: str) -> bool:
    """Whether a target is a number in the row itself, and no text of digits."""
    column = lone_column(template)
    cell = reach(row, column, place) if column else None
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def first_candidate(
    task: Task, train: Sequence[Example], test: Sequence[Example]
) -> tuple[str, list[str]]:
    """The first candidate of every test example."""
    return "first candidate", [candidates_of(example.source)[0] for example in test]


def candidates_of(text: str) -> tuple[str, ...]:
    """The candidates that a text brings along."""
    candidates = text.candidates if isinstance(text, Text) else ()
    if not candidates:
        raise InputError(
            f"the text {text[:50]!r} has no candidates; a multiple choice takes rows with the "
            "columns of task.labels, as .jsonl, .csv or .tsv"
        )
    return candidates


def program(
    backbone: Backbone, injection: Injection | None, task: Task, data: DataConfig, eval: EvalConfig
) -> Program:
    """Log-likelihoods [B, C] of every row's candidates, -inf where a row has fewer."""
    if backbone.target_place == "within":
        raise InputError(
            f"backbone {backbone.name!r} only reads and cannot rank candidates of several words; "
            "use a T5 or a decoder"
        )
    backbone.check_word_head()
    injection = read_once(backbone, injection)
    model, filler = PromptedModel.of(backbone, injection), backbone.config.filler
    place = task.target_place(backbone.target_place)
    positions = 0 if injection is None else injection.positions

    def run(tokens: np.ndarray, mask: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        counts = [len(candidates_of(text)) for text in texts]
        flat = [candidate for text in texts for candidate in candidates_of(text)]
        limits = (backbone.tokenizer, flat, data.max_target_length)
        rows = encode_targets(*limits, place=place)
        backbone.check_context(positions, backbone.longest(mask), max(map(len, rows)))
        # Few shapes, and so few programs: lengths as of inputs, counts as powers of two.
        length, most = padded_length(max(map(len, rows))), 2 ** (max(counts) - 1).bit_length()
        candidates = np.full((len(texts), most, length), filler, np.int32)
        real = np.zeros(candidates.shape, bool)
        # Candidates stand on the left of a row; what fills it up gives the batch one shape.
        missing = np.arange(most)[None] >= np.array(counts)[:, None]
        # A boolean index counts row by row, which is the order of `flat`.
        candidates[~missing], real[~missing] = pad(rows, length, filler)
        lengths = real.sum(-1) if eval.length_normalize else np.ones((len(texts), most), int)
        # Missing candidates have no tokens; they are divided by one and become -inf below.
        placed = place_rows((tokens, mask, candidates, real, np.maximum(lengths, 1)), backbone.mesh)
        return np.where(missing, -np.inf, on_host(score_candidates(model, *placed)))

    return run


def answers(
    task: Task, tokenizer: Tokenizer, results: list[Any], texts: Sequence[str], places: Places
) -> Answers:
    """The likeliest candidate of every text."""
    options = [candidates_of(text) for text in texts]
    scores = np.full((len(texts), max(map(len, options), default=0)), -np.inf, np.float32)
    for row, result, names in zip(scores, results, options, strict=True):
        row[: len(names)] = result[: len(names)]
    predictions = [names[row.argmax()] for row, names in zip(scores, options, strict=True)]
    return Answers(predictions, scores, options)


KIND = Kind(example=example, source=source, baseline=first_candidate)
READOUT = Readout(
    loss=written.loss, program=program, answers=answers, likelihood=words.likelihood, ahead=True
)
