"""Texts in, answers out, whatever kind of answer a task has."""

from collections.abc import Callable, Sequence
from typing import Any

from prompt_jax.answers.heads import readout_in
from prompt_jax.answers.readout import Answers, Head
from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.data import batches_by_length, encode, encode_targets, locate
from prompt_jax.forward import Injection, check_places
from prompt_jax.generate import one_mask, read_ahead
from prompt_jax.tasks import Task, place_of
from prompt_jax.trees import Tokenizer

Progress = Callable[[int, int], None]
"""Called with the answered and all inputs."""


def tokenizer_of(backbone: Backbone) -> Tokenizer:
    """The backbone's tokenizer."""
    if backbone.tokenizer is None:
        raise InputError(
            f"backbone {backbone.name!r} has no tokenizer to read texts with; use a folder or hub "
            "id that holds one, or give load_backbone(..., tokenizer=FOLDER or hub id)"
        )
    return backbone.tokenizer


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

    Raises:
      InputError: the backbone has no tokenizer, or the head has another number of classes than
        the task.
    """
    tokenizer = tokenizer_of(backbone)
    readout = readout_in(injection, task)
    in_words = not isinstance(readout, Head)
    check_words(backbone, data, sources, labels=task.ranked if in_words else ())
    places = []
    if readout.located:
        rows, places, _ = locate(tokenizer, sources, data.max_source_length)
    else:
        rows = encode(tokenizer, sources, data.max_source_length)
    names = [place_of(text, i) for i, text in enumerate(sources)]
    if injection is not None:
        check_places(injection.placement, backbone, rows, names)
    if backbone.config.is_encoder and in_words and backbone.config.word_head:
        one_mask(backbone, rows, names)
    if readout.ahead:
        injection, rows = read_ahead(backbone, injection, rows)
    program = readout.program(backbone, injection, task, data, eval)
    # Lengths are padded so that prompt and text together fill tiles of the hardware.
    virtual = 0 if injection is None else injection.input_tokens
    results: list[Any] = [None] * len(rows)
    done, filler = 0, backbone.config.filler
    for indices, tokens, mask in batches_by_length(rows, eval.rows, virtual, filler):
        # The last batch is filled up with copies of its last row.
        texts = [sources[int(i)] for i in indices]
        texts += texts[-1:] * (len(tokens) - len(texts))
        for index, result in zip(indices, program(tokens, mask, texts), strict=False):
            results[index] = result
        done += len(indices)
        if progress:
            progress(done, len(rows))
    return readout.answers(task, tokenizer, results, sources, places)
