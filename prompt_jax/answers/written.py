"""A text that the model writes: the answer to any task, in words."""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prompt_jax.answers.readout import Answers, LossOptions, Places, Program, Readout
from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig, WritingConfig
from prompt_jax.data import (
    IGNORED,
    Batch,
    batches_by_length,
    encode,
    encode_targets,
    pad,
    padded_length,
)
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.generate import first_stop, generate, read_ahead, read_once, score_candidates
from prompt_jax.sharding import on_host, place_rows
from prompt_jax.tasks import Example, Task, Text, place_of
from prompt_jax.tasks.chat import chat_text
from prompt_jax.tasks.task import Kind
from prompt_jax.tasks.templates import learns_each
from prompt_jax.trees import Tokenizer


def cross_entropy(
    logits: Float[Array, "B U V"],
    targets: Int[Array, "B U"],
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Float[Array, "B U"]:
    """Negative log-likelihood of every target token, in nats.

    Written with logsumexp, so no one-hot [B, U, V] array exists. Smoothing moves its mass to all V
    words evenly; `z_loss * log(Z)**2` keeps the normaliser near one.
    """
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if label_smoothing:
        picked = (1 - label_smoothing) * picked + label_smoothing * logits.mean(-1)
    return normalizer - picked + z_loss * jnp.square(normalizer)


def token_loss(
    logits: Float[Array, "B U V"], batch: Batch, options: LossOptions
) -> tuple[Float[Array, ""], Array]:
    """The mean cross-entropy of all target tokens, and how many they are."""
    smooth = {"label_smoothing": options.label_smoothing, "z_loss": options.z_loss}
    nll = cross_entropy(logits, batch.targets, **smooth)
    count = batch.target_mask.sum()
    # Over tokens and not over rows, so that a long target weighs more than a short one.
    return jnp.where(batch.target_mask, nll, 0.0).sum() / jnp.maximum(count, 1), count


def mean_loss(logits: Float[Array, "B U C"], labels: Int[np.ndarray, "B U"]) -> Float[Array, ""]:
    """The mean cross-entropy of the labels that are not `IGNORED`, in nats."""
    counted = jnp.asarray(labels != IGNORED)
    # `IGNORED` is negative and would index from the end; such places do not count.
    nll = cross_entropy(logits, jnp.maximum(labels, 0))
    return jnp.where(counted, nll, 0.0).sum() / jnp.maximum(counted.sum(), 1)


def loss(
    model: PromptedModel, batch: Batch, options: LossOptions
) -> tuple[Float[Array, ""], Array]:
    """The loss of the target's tokens, each told those before it."""
    logits = model.target_logits(batch.tokens, batch.mask, batch.targets)
    return token_loss(logits, batch, options)


def program(
    backbone: Backbone, injection: Injection | None, task: Task, data: DataConfig, eval: EvalConfig
) -> Program:
    """The texts of answers."""
    injection = read_once(backbone, injection)
    options = {f.name: getattr(eval, f.name) for f in dataclasses.fields(WritingConfig)}

    def write(tokens: np.ndarray, mask: np.ndarray, texts: Sequence[str]) -> list[str]:
        # Draws are seeded with the text alone: no batch, shard or order of the inputs changes them.
        rows = np.array(
            [zlib.crc32(text.encode(errors="surrogatepass")) for text in texts], np.uint32
        )
        answers = generate(backbone, injection, tokens, mask, rows=rows, **options)
        written = backbone.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [text[: first_stop(text, eval.stop_strings)] for text in written]

    return write


def answers(
    task: Task, tokenizer: Tokenizer, results: list[Any], texts: Sequence[str], places: Places
) -> Answers:
    """The texts that were written."""
    return Answers([text.strip() for text in results])


def target_likelihood(
    backbone: Backbone,
    injection: Injection | None,
    sources: Sequence[str],
    targets: Sequence[str],
    task: Task,
    *,
    data: DataConfig,
    eval: EvalConfig,
) -> float:
    """The mean log-probability of a target's token, in nats: minus the loss of training."""
    rows = encode(backbone.tokenizer, sources, data.max_source_length)
    words = (backbone.tokenizer, targets, data.max_target_length)
    target_tokens = encode_targets(*words, place=task.target_place(backbone.target_place))
    length = padded_length(max(map(len, target_tokens)))
    injection, rows = read_ahead(backbone, injection, rows)
    injection = read_once(backbone, injection)
    model = PromptedModel.of(backbone, injection)
    virtual = 0 if injection is None else injection.input_tokens
    positions = 0 if injection is None else injection.positions
    backbone.check_context(positions, max(map(len, rows)), max(map(len, target_tokens)))
    pad_id, total = backbone.config.filler, 0.0
    for indices, tokens, mask in batches_by_length(rows, eval.rows, virtual, pad_id):
        # The last batch is filled up with copies of its last row.
        copies = np.pad(indices, (0, len(tokens) - len(indices)), mode="edge")
        # To the longest target of all, so that only the length of inputs makes another program.
        candidates, real = pad([target_tokens[i] for i in copies], length, pad_id)
        scores = score_candidates(
            model,
            *place_rows((tokens, mask, candidates[:, None], real[:, None]), backbone.mesh),
            # Sums and no means: all tokens are divided by their number at the end.
            np.ones((len(tokens), 1), int),
        )
        # In float64, as the sum over a whole data set outgrows the digits of float32.
        total += float(on_host(scores)[: len(indices)].sum(dtype=np.float64))
    return total / sum(map(len, target_tokens))


def taught(task: Task, examples: Sequence[Example]) -> Sequence[Example]:
    """The examples, and what else is learned of them.

    Of a chat each of the assistant's earlier turns, so that the loss is on all that the assistant
    says, each time behind the chat so far; of a target `{answers:each}` all right answers.
    """
    if learns_each(task.target):
        return [
            example._replace(target=answer, others=())
            for example in examples
            for answer in example.references
        ]
    if task.source != task.target:  # No messages.
        return examples
    return [part for example in examples for part in (*_earlier_turns(example), example)]


def _earlier_turns(example: Example) -> Iterator[Example]:
    turns = example.source.turns if isinstance(example.source, Text) else ()
    for i, (role, content) in enumerate(turns):
        before = turns[:i]
        if role == "assistant" and content.strip() and before and before[-1].role == "user":
            source = Text(chat_text(before), place_of(example.source, 0), turns=before)
            yield Example(source, content)


KIND = Kind(taught=taught)
READOUT = Readout(loss=loss, program=program, answers=answers)
