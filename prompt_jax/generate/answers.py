"""Texts in, answers out: a label word that is ranked first, or a text that is written."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.data import encode, encode_targets, pad
from prompt_jax.generate.decoding import generate
from prompt_jax.generate.prefill import read_once
from prompt_jax.generate.scoring import classify, score
from prompt_jax.methods import Injection
from prompt_jax.tasks import Task

Progress = Callable[[int, int], None]


class Answers(NamedTuple):
    """What a model says to N inputs."""

    predictions: list[str]
    scores: Float[np.ndarray, "N C"] | None
    """The log-likelihood of every label word, as it was ranked; None for generation."""


def answer(
    backbone: Backbone,
    injection: Injection | None,
    sources: Sequence[str],
    task: Task,
    *,
    data: DataConfig,
    eval: EvalConfig,
    placement: str = "prefix",
    frozen: Any = None,
    progress: Progress | None = None,
) -> Answers:
    """The answer to every input, in the order of the inputs.

    Inputs of similar length share a batch, and all batches have `eval.batch_size` rows, so a few
    compiled programs serve any number of inputs.

    Args:
      sources: input texts, the template already filled.
      frozen: the weights; None takes `backbone.params`.
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
    virtual = 0 if injection is None else injection.input_tokens
    if frozen is None:
        injection = read_once(backbone, injection, placement)
    shared: dict[str, Any] = {"placement": placement, "frozen": frozen}
    words = (tokenizer, task.labels, data.max_target_length)
    labels = _padded(encode_targets(*words, place=backbone.target_place), backbone)

    head = None if injection is None else injection.head
    if head is not None:
        _check_classes(head, task)

    def run(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if injection is not None and head is not None:
            return np.asarray(classify(backbone, injection, tokens, mask, **shared))
        if task.labels:
            shared["length_normalize"] = eval.length_normalize
            return np.asarray(score(backbone, injection, tokens, mask, *labels, **shared))
        beams = {"num_beams": eval.num_beams, "length_penalty": eval.length_penalty}
        length = {"max_new_tokens": eval.max_new_tokens}
        return generate(backbone, injection, tokens, mask, **shared, **beams, **length)

    rows = encode(tokenizer, sources, data.max_source_length)
    width = len(task.labels) or eval.max_new_tokens
    found = np.zeros((len(rows), width), np.float32 if task.labels else np.int32)
    done = 0
    for indices, tokens, mask in _batches(rows, eval.batch_size, virtual, _pad_id(backbone)):
        found[indices] = run(tokens, mask)[: len(indices)]
        done += len(indices)
        if progress:
            progress(done, len(rows))
    if task.labels:
        return Answers([task.labels[best] for best in found.argmax(1)], found)
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    return Answers([text.strip() for text in texts], None)


def _check_classes(head: dict[str, Any], task: Task) -> None:
    classes = head["out"]["kernel"].shape[-1]
    if classes != len(task.labels):
        raise InputError(
            f"the head has {classes} classes and task {task.name!r} has {len(task.labels)} label "
            "words; use the task that it was trained on, or set task.labels"
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
    return backbone.config.pad_token_id


def _padded(
    rows: list[np.ndarray], backbone: Backbone
) -> tuple[Int[np.ndarray, "C U"], Bool[np.ndarray, "C U"]]:
    if not rows:
        return np.zeros((0, 0), np.int32), np.zeros((0, 0), bool)
    return pad(rows, max(map(len, rows)), _pad_id(backbone))


def _batches(
    rows: list[np.ndarray], size: int, virtual: int, pad_id: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Indices, tokens and mask; the longest first, so what does not fit in memory fails at once.

    The last batch is filled up with copies of its last row, which have no index.
    """
    order = np.argsort([-len(row) for row in rows], kind="stable")
    for start in range(0, len(order), size):
        indices = order[start : start + size]
        picked = [rows[i] for i in np.pad(indices, (0, size - len(indices)), mode="edge")]
        yield indices, *pad(picked, padded_length(len(picked[0]), virtual), pad_id)
