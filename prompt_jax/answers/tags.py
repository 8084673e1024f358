"""A tag for every word of the input, by a trained head on the first token of each word."""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.answers.classes import class_labels, head_program
from prompt_jax.answers.readout import Answers, Head, LossOptions, Places, Reading
from prompt_jax.answers.written import mean_loss, token_loss
from prompt_jax.config import DataConfig, InputError
from prompt_jax.data import IGNORED, Batch, first_tokens, locate, tag_targets
from prompt_jax.data.tokens import Encoded, EncodeOptions, Truncated, sources_of
from prompt_jax.forward import PromptedModel
from prompt_jax.tasks import Example, Task, label_word, words_of
from prompt_jax.tasks.task import Kind, check_some, filled_example, filled_target
from prompt_jax.tasks.text import Record
from prompt_jax.trees import Tokenizer


def example(task: Task, row: Record, place: str) -> Example:
    """Both templates, filled; the target is a tag for every word of the source."""
    filled = filled_example(task, row, place)
    words, tags = words_of(filled.source), filled.target.split()
    if len(words) != len(tags):
        raise InputError(
            f"{place}: {len(tags)} tags for {len(words)} words; every word has one tag without "
            "spaces. The words are those of the list, or what spaces separate in a text, of which "
            "the template has nothing else then"
        )
    if not task.labels:
        return filled
    tags = [label_word(task, tag, place, "a tag of this task") for tag in tags]
    return filled._replace(target=" ".join(tags))


def labels_in(template: str, row: Record, place: str) -> list[str]:
    """The tags of a row, those of words that repeat as often as the words."""
    return filled_target(template, row, place).split()


def complete(task: Task, examples: Sequence[Example]) -> Task:
    """The task with the tags that its examples have, "O" first, unless it names them."""
    if task.labels:
        return task
    tags = {tag for example in examples for tag in example.target.split()}
    # The default metrics depend on the tags; others stay what they are.
    plain = dataclasses.replace(task, metrics=())
    metrics = () if plain.metrics == task.metrics else task.metrics
    labels = tuple(sorted(tags, key=lambda tag: (tag != "O", tag)))
    return dataclasses.replace(task, labels=labels, metrics=metrics)


def majority(
    task: Task, train: Sequence[Example], test: Sequence[Example]
) -> tuple[str, list[str]]:
    """The most frequent tag of the training examples, for every word."""
    check_some(train, "train")
    tags = collections.Counter(tag for example in train for tag in example.target.split())
    tag = tags.most_common(1)[0][0]
    return "majority", [" ".join([tag] * len(words_of(example.source))) for example in test]


def encode(
    examples: Sequence[Example], tokenizer: Tokenizer, data: DataConfig, options: EncodeOptions
) -> Encoded:
    """Examples as token ids, and the number of the tag at the first token of every word."""
    located = locate(tokenizer, sources_of(examples), data.max_source_length)
    number = {tag: i for i, tag in enumerate(options.labels)}
    targets = [
        tag_targets(example.source, places, [number[tag] for tag in example.target.split()])
        for example, places in zip(examples, located.places, strict=True)
    ]
    pad_id = options.pad_id(tokenizer)
    return Encoded(located.tokens, targets, Truncated(located.cut, 0), pad_id, by_token=True)


def loss(
    model: PromptedModel, batch: Batch, options: LossOptions
) -> tuple[Float[Array, ""], Array]:
    """The loss of all tags."""
    return token_loss(model.token_logits(batch.tokens, batch.mask), batch, options)


class TaggedWord(NamedTuple):
    """A word of a text, and its likeliest tag."""

    start: int
    """Its first character, and the one behind its last."""
    stop: int
    tag: int
    """0, which is "O", of a word that was cut off."""
    log_prob: float | None
    """Of the tag; None of a word that was cut off."""


def tagged_words(
    scores: Float[np.ndarray, "T C"], text: str, places: Int[np.ndarray, "K 2"]
) -> list[TaggedWord]:
    """The words of a text with their tags."""
    rows, best = [], scores.argmax(-1)
    # The model reads every token of a word, and its tag is read at the first, where it was trained.
    for (start, stop), token in zip(words_of(text), first_tokens(text, places), strict=True):
        tag = int(best[token]) if token >= 0 else 0
        log_prob = float(scores[token, tag]) if token >= 0 else None
        rows.append(TaggedWord(start, stop, tag, log_prob))
    return rows


def tags_of(
    scores: Float[np.ndarray, "T C"],
    text: str,
    places: Int[np.ndarray, "K 2"],
    labels: tuple[str, ...],
) -> str:
    """The tag of every word of a text; words that were cut off have the first one, "O"."""
    return " ".join(labels[word.tag] for word in tagged_words(scores, text, places))


def token_answers(text_of: Callable[..., str]) -> Callable[..., Answers]:
    """The `answers` of a head that reads tokens: what `text_of` makes of every text."""

    def answers(
        task: Task, tokenizer: Tokenizer, results: list[Any], texts: Sequence[str], places: Places
    ) -> Answers:
        rows = zip(results, texts, places, strict=True)
        predictions = [text_of(*row, task.labels) for row in rows]
        return Answers(predictions, readings=list(map(Reading, results, places)))

    return answers


def likelihood(answers: Answers, examples: Sequence[Example], task: Task) -> float | None:
    """The mean log-probability of the right tags; what was cut off is left out."""
    number = {tag: i for i, tag in enumerate(task.labels)}
    right = []
    for (scores, places), example in zip(answers.readings or (), examples, strict=True):
        tags = [number[tag] for tag in example.target.split()]
        targets = tag_targets(example.source, places, tags)
        tokens = np.flatnonzero(targets != IGNORED)
        right.append(scores[tokens, targets[tokens]])
    return float(np.concatenate(right).mean()) if right else None


def mean_label_loss(
    logits: Float[Array, "B T C"], labels: Any, mask: Bool[np.ndarray, "B T"]
) -> Float[Array, ""]:
    """Cross-entropy of classes [B, T]."""
    return mean_loss(logits, class_labels(labels, mask.shape, logits.shape[-1]))


logits = jax.jit(PromptedModel.token_logits)
KIND = Kind(
    example=example,
    labels_in=labels_in,
    complete=complete,
    baseline=majority,
)
HEAD = Head(
    loss=loss,
    program=head_program(logits),
    answers=token_answers(tags_of),
    encode=encode,
    likelihood=likelihood,
    located=True,
    task_type="TOKEN_CLS",
    outputs="tags",
    logits=logits,
    label_loss=mean_label_loss,
)
