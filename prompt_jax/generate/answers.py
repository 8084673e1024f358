"""Texts in, answers out: a label word that is ranked first, or a text that is written."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from prompt_jax.backbones import Backbone, is_encoder
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.data import encode, encode_labels, encode_targets, locate, pad
from prompt_jax.forward import Injection
from prompt_jax.generate.decoding import generate
from prompt_jax.generate.prefill import read_once
from prompt_jax.generate.reading import READERS, classify
from prompt_jax.generate.scoring import one_mask, score
from prompt_jax.sharding import on_host
from prompt_jax.tasks import Task, place_of

Progress = Callable[[int, int], None]


def check_words(
    backbone: Backbone,
    data: DataConfig,
    sources: Sequence[str],
    targets: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> None:
    """Checks that the embedding table has a row for every token of inputs, targets and labels.

    Costs nothing with a tokenizer that has no more words than the table has rows.

    Args:
      targets: what is to be written for `sources`; none where nothing is.
      labels: the label words.

    Raises:
      InputError: it has none for some token.
    """
    if not backbone.beyond:
        return
    place, tokenizer = backbone.target_place, backbone.tokenizer
    for i, row in enumerate(encode(tokenizer, sources, data.max_source_length)):
        backbone.check_tokens(row, place_of(sources[i], i))
    for i, row in enumerate(
        encode_targets(tokenizer, targets, data.max_target_length, place=place)
    ):
        backbone.check_tokens(row, f"{place_of(sources[i], i)}, the target")
    for i, row in enumerate(encode_targets(tokenizer, labels, data.max_target_length, place=place)):
        backbone.check_tokens(row, f"label word {labels[i]!r}")


class Answers(NamedTuple):
    """What a model says to N inputs."""

    predictions: list[str]
    scores: Float[np.ndarray, "N C"] | None
    """The log-likelihood of every label word, as it was ranked; None for other kinds."""
    readings: "list[Reading] | None" = None
    """Of a head that reads tokens, for every input; None for other kinds."""


class Reading(NamedTuple):
    """What a head says of the tokens of an input."""

    scores: Float[np.ndarray, "R C"]
    """Log-probabilities: of every tag at every token, or of every token as an end of the span."""
    places: Int[np.ndarray, "K 2"]
    """Where the tokens stand in the text."""


def answer(
    backbone: Backbone,
    injection: Injection | None,
    sources: Sequence[str],
    task: Task,
    *,
    data: DataConfig,
    eval: EvalConfig,
    progress: Progress | None = None,
) -> Answers:
    """The answer to every input, in the order of the inputs.

    Inputs of similar length share a batch, and all batches have `eval.rows` rows, so a few
    compiled programs serve any number of inputs.

    Args:
      sources: input texts, the template already filled.
      progress: called after every batch with the answered and all inputs.

    Raises:
      InputError: the backbone has no tokenizer, or the head has another number of classes than
        the task.
    """
    tokenizer = backbone.tokenizer
    if tokenizer is None:
        raise InputError(
            f"backbone {backbone.name!r} has no tokenizer to read texts with; give "
            "load_backbone(..., tokenizer=FOLDER or hub id)"
        )
    head = None if injection is None else injection.head
    check_words(backbone, data, sources, labels=() if head else task.choices)
    reads = head is not None and task.kind in READERS
    if head is not None:
        _check_classes(head, task)
    virtual = 0 if injection is None else injection.input_tokens
    places: list[np.ndarray] = []
    if reads:
        rows, places, _ = locate(tokenizer, sources, data.max_source_length)
    else:
        rows = encode(tokenizer, sources, data.max_source_length)
    if is_encoder(backbone.config) and head is None and backbone.config.word_head:
        one_mask(backbone, rows, [place_of(text, i) for i, text in enumerate(sources)])
    run = _asked(backbone, injection, task, data, eval)
    found: list[Any] = [None] * len(rows)
    done = 0
    for indices, tokens, mask in batches_by_length(rows, eval.rows, virtual, _pad_id(backbone)):
        for index, answered in zip(indices, run(tokens, mask), strict=False):
            found[index] = answered
        done += len(indices)
        if progress:
            progress(done, len(rows))
    if reads:
        each = zip(found, sources, places, strict=True)
        texts = [READERS[task.kind](*given, task.labels) for given in each]
        return Answers(texts, None, list(map(Reading, found, places)))
    if task.choices:
        scores = np.stack(found) if found else np.zeros((0, len(task.choices)), np.float32)
        return Answers([task.choices[best] for best in scores.argmax(1)], scores)
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    return Answers([text.strip() for text in texts], None)


def _asked(
    backbone: Backbone,
    injection: Injection | None,
    task: Task,
    data: DataConfig,
    eval: EvalConfig,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """What a batch of tokens and mask is asked for: a head's scores, those of words, or a text."""
    injection = read_once(backbone, injection)
    if injection is not None and injection.head is not None:
        # A head on label words is one of classes, whatever the task calls them.
        kind = {"kind": task.kind} if task.kind in READERS else {}
        read = functools.partial(classify, backbone, injection, **kind)
        return lambda tokens, mask: on_host(read(tokens, mask))
    if task.choices:
        words = (backbone.tokenizer, task.choices, data.max_target_length)
        labels = encode_labels(*words, place=backbone.target_place)
        labels = pad(labels, max(map(len, labels)), _pad_id(backbone))
        norm = {"length_normalize": eval.length_normalize}
        return lambda tokens, mask: on_host(
            score(backbone, injection, tokens, mask, *labels, **norm)
        )
    beams = {"num_beams": eval.num_beams, "length_penalty": eval.length_penalty}
    beams["max_new_tokens"] = eval.max_new_tokens
    return functools.partial(generate, backbone, injection, **beams)


def _check_classes(head: dict[str, Any], task: Task) -> None:
    classes = head["out"]["kernel"].shape[-1]
    wanted, what = len(task.labels), "tags" if task.kind == "tagging" else "label words"
    if task.kind == "span":
        wanted, what = 2, "ends of an answer"
    if classes != wanted:
        raise InputError(
            f"the head has {classes} classes and task {task.name!r} has {wanted} {what}; use the "
            "task that it was trained on, or set task.labels"
        )


def padded_length(longest: int, virtual: int = 0) -> int:
    """The length T that a batch is padded to, at least `longest`.

    P + T is a multiple of 8, four sizes an octave: little padding, and the same sizes serve every
    dataset, so that after the first one next to nothing is compiled.
    """
    total = longest + virtual
    step = max(8, 2 ** ((total - 1).bit_length() - 3))
    return -(-total // step) * step - virtual


def _pad_id(backbone: Backbone) -> int:
    return backbone.config.filler


def batches_by_length(
    rows: list[np.ndarray], size: int, virtual: int, pad_id: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Indices, tokens and mask of batches of rows of similar length.

    The longest come first, so what does not fit in memory fails at once.

    The last batch is filled up with copies of its last row, which have no index.
    """
    order = np.argsort([-len(row) for row in rows], kind="stable")
    for start in range(0, len(order), size):
        indices = order[start : start + size]
        picked = [rows[i] for i in np.pad(indices, (0, size - len(indices)), mode="edge")]
        yield indices, *pad(picked, padded_length(len(picked[0]), virtual), pad_id)
