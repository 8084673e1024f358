"""A part of the input that answers a question, by a trained head on its first and last token."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.answers import words
from prompt_jax.answers.classes import class_labels, head_program
from prompt_jax.answers.readout import Answers, Head, LossOptions
from prompt_jax.answers.tags import logits, token_answers
from prompt_jax.answers.written import mean_loss, token_loss
from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, InputError, MethodConfig
from prompt_jax.data import Batch, locate, span_targets
from prompt_jax.data.alignment import NO_SPAN
from prompt_jax.data.tokens import Encoded, EncodeOptions, Truncated, sources_of
from prompt_jax.forward import PromptedModel, at_places
from prompt_jax.tasks import Example, Task, place_of
from prompt_jax.tasks.task import NO_ANSWER, Kind, copied_input, filled_source, lone_column
from prompt_jax.tasks.templates import columns_in, reach
from prompt_jax.tasks.text import Record
from prompt_jax.trees import Tokenizer

LONGEST_SPAN = 30  # In tokens, as the scripts for SQuAD have it.


def example(task: Task, row: Record, place: str) -> Example:
    """The source, and where in its last column the first of the right answers begins."""
    source = filled_source(task, row, place)
    context, _ = source.columns[-1]
    if not context:  # The space at its head is gone, which `answer_start` counts.
        cell = str(reach(row, columns_in(task.source)[-1], place))
        context = len(cell.lstrip()) - len(cell)
    column = lone_column(task.target)
    if not column:
        raise InputError(
            f"the target template of a span is its column alone, got {task.target!r}; write "
            '--task.target "{answers}"'
        )
    texts, starts = right_answers(reach(row, column, place), column, place)
    if not texts:
        return Example(source, "")
    start = context + starts[0] if starts else source.find(texts[0], max(context, 0))
    if start < 0 or source[start : start + len(texts[0])] != texts[0]:
        raise InputError(
            f"{place}: the answer {texts[0]!r} is not in the input where it should be; it is a "
            "part of the last column of the source template, and answer_start counts its "
            'characters: correct the row, or set task.kind to "generation"'
        )
    target, *others = dict.fromkeys(texts)
    return Example(source, target, tuple(others), start)


def right_answers(value: Any, column: str, place: str) -> tuple[list[str], list[int]]:
    """The right answers of a row and where they begin, if it says so; none if there is none."""
    starts = []
    if isinstance(value, Mapping) and "text" in value:
        value, starts = value["text"], value.get("answer_start")
        starts = starts if isinstance(starts, list) else [] if starts is None else [starts]
    texts = [value] if isinstance(value, str) else value
    if (
        not isinstance(texts, list)
        or not all(isinstance(text, str) for text in texts)
        or not all(isinstance(start, int) for start in starts)
    ):
        raise InputError(
            f"{place}: column {column!r} holds no answers; allowed: a text, a list of texts, or "
            '{"text": [...], "answer_start": [...]} as SQuAD has it, which counts characters'
        )
    if not all(text.strip() for text in texts):
        raise InputError(
            f"{place}: column {column!r} holds an empty answer; a question without an answer has "
            "an empty list, as SQuAD 2.0 has it"
        )
    # Space around an answer, as SQuAD's have it, is no part of it.
    starts = [n + len(t) - len(t.lstrip()) for n, t in zip(starts, texts, strict=False)]
    return [text.strip() for text in texts], starts


def complete(task: Task, examples: Sequence[Example]) -> Task:
    """The task, which may answer nothing if some of its examples have no answer."""
    silent = not all(example.target for example in examples)
    return dataclasses.replace(task, labels=NO_ANSWER) if silent else task


def baseline(
    task: Task, train: Sequence[Example], test: Sequence[Example]
) -> tuple[str, list[str]]:
    """The most frequent answer where there may be none, else the input itself."""
    return (words.majority if task.labels else copied_input)(task, train, test)


def encode(
    examples: Sequence[Example], tokenizer: Tokenizer, data: DataConfig, options: EncodeOptions
) -> Encoded:
    """Examples as token ids, and the first and the last token of every answer.

    Raises:
      InputError: a cut takes the answer of some.
    """
    located = locate(tokenizer, sources_of(examples), data.max_source_length)
    targets, lost = [], []
    for i, (example, places) in enumerate(zip(examples, located.places, strict=True)):
        start = example.start or 0
        stop = start + len(example.target)
        span = span_targets(places, start, stop) if example.target else NO_SPAN
        if span is None:
            lost.append(place_of(example.source, i))
        else:
            targets.append(span)
    if lost:
        raise InputError(
            f"{lost[0]}: the answer is behind the cut at {data.max_source_length} tokens, as in "
            f"{len(lost)} of {len(examples)} training rows; raise data.max_source_length, or "
            "remove them"
        )
    return Encoded(located.tokens, targets, Truncated(located.cut, 0), options.pad_id(tokenizer))


def loss(
    model: PromptedModel, batch: Batch, options: LossOptions
) -> tuple[Float[Array, ""], Array]:
    """The loss of the two ends of every answer."""
    return token_loss(model.span_logits(batch.tokens, batch.mask), batch, options)


class Span(NamedTuple):
    """A part of a text that answers a question."""

    start: int
    """Its first character, and the one behind its last; equal where there is no answer."""
    stop: int
    log_prob: float
    """Of both of its ends together."""


def best_span(
    scores: Float[np.ndarray, "2 T"],
    places: Int[np.ndarray, "K 2"],
    labels: tuple[str, ...] = (),
) -> Span:
    """The likeliest part of a text, of at most `LONGEST_SPAN` tokens; empty of a text without.

    With `labels`, which are `NO_ANSWER`, it is empty too where the first token, which stands for
    no answer, is likelier than any part.
    """
    silent = Span(0, 0, float(scores[:, 0].sum()))
    # Special tokens stand for no characters, and so no answer begins or ends at one.
    tokens = np.flatnonzero(places[:, 0] < places[:, 1])
    if not len(tokens):
        return silent
    first, last = scores[:, tokens]
    ahead = tokens[None, :] - tokens[:, None]
    # Both ends are distributions of their own, so that a span has the sum of two log-probabilities.
    together = np.where((ahead >= 0) & (ahead < LONGEST_SPAN), first[:, None] + last, -np.inf)
    begin, end = np.unravel_index(together.argmax(), together.shape)
    if "" in labels and silent.log_prob > together[begin, end]:
        return silent
    start, stop = places[tokens[begin], 0], places[tokens[end], 1]
    return Span(int(start), int(stop), float(together[begin, end]))


def span_of(
    scores: Float[np.ndarray, "2 T"],
    text: str,
    places: Int[np.ndarray, "K 2"],
    labels: tuple[str, ...] = (),
) -> str:
    """The words of `best_span`."""
    span = best_span(scores, places, labels)
    return text[span.start : span.stop]


def likelihood(answers: Answers, examples: Sequence[Example], task: Task) -> float | None:
    """The mean log-probability of the ends of the right answers; what was cut off is left out."""
    right = []
    for (scores, places), example in zip(answers.readings or (), examples, strict=True):
        if example.start is not None:
            ends = span_targets(places, example.start, example.start + len(example.target))
            right += [] if ends is None else [scores[[0, 1], ends]]
    return float(np.concatenate(right).mean()) if right else None


def configure(head: Head, method: MethodConfig, backbone: Backbone, task: Task) -> MethodConfig:
    """The method with a head of two outputs, which such a config always has."""
    return dataclasses.replace(method, task_type=head.task_type)


def mean_label_loss(
    logits: Float[Array, "B T 2"], labels: Any, mask: Bool[np.ndarray, "B T"]
) -> Float[Array, ""]:
    """Cross-entropy over the places of every text of the first and the last token, [B, 2]."""
    labels = class_labels(labels, (len(mask), 2), mask.shape[1])
    return mean_loss(at_places(logits, mask), labels)


span_logits = jax.jit(PromptedModel.span_logits)
KIND = Kind(
    example=example,
    complete=complete,
    baseline=baseline,
)
HEAD = Head(
    loss=loss,
    program=head_program(span_logits),
    answers=token_answers(span_of),
    encode=encode,
    likelihood=likelihood,
    located=True,
    task_type="QUESTION_ANS",
    size=2,
    outputs="ends of an answer",
    configure=configure,
    logits=logits,
    label_loss=mean_label_loss,
)
