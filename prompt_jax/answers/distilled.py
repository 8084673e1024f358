"""What a teacher says at every token of its answers, and how near a student comes to it.

The teacher is the frozen model with a text in its context. Of the distribution over all words its K
likeliest are kept, and the rest counts as one class: a lesson is small, and says nearly all.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.answers import written
from prompt_jax.answers.readout import LossOptions
from prompt_jax.backbones import Backbone
from prompt_jax.config import EvalConfig, InputError, WritingConfig
from prompt_jax.data import Batch, batches_by_length, pad, pad_likely, padded_length
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.generate import generate, read_ahead, read_once
from prompt_jax.metrics import Scores
from prompt_jax.sharding import on_host, place_rows, whole_rows
from prompt_jax.tasks import Lesson, Likely

LEAST = 1e-7
"""The least probability of all other words together: float32 cannot tell less from a sum of one."""


@functools.partial(jax.jit, static_argnames="top")
def likeliest(
    model: PromptedModel,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    targets: Int[Array, "B U"],
    *,
    top: int,
) -> Likely:
    """The likeliest words at every target token, each told those before it."""
    log_probs, words = jax.lax.top_k(
        jax.nn.log_softmax(model.target_logits(tokens, mask, targets)), top
    )
    return Likely(words, log_probs)


def teach(backbone: Backbone, rows: list[np.ndarray], eval: EvalConfig, top: int) -> list[Lesson]:
    """The answers of the plain frozen model, and what it says at every token of them.

    Args:
      rows: the tokens that it reads, a text in the context among them.
      eval: how answers are written.
      top: words that are kept at every token; those of a smaller vocabulary are fewer.
    """
    texts = rows
    injection, rows = read_ahead(backbone, None, rows)
    model, filler = PromptedModel.of(backbone, injection), backbone.config.filler
    options = {f.name: getattr(eval, f.name) for f in dataclasses.fields(WritingConfig)}
    lessons: list[Lesson | None] = [None] * len(rows)
    size = whole_rows(min(eval.rows, len(rows)), backbone.mesh)
    for indices, tokens, mask in batches_by_length(rows, size, 0, filler):
        copies = np.pad(indices, (0, len(tokens) - len(indices)), mode="edge")
        # Draws are seeded with what is read alone, so that no batch changes them.
        seeds = np.array([zlib.crc32(texts[i].tobytes()) for i in copies], np.uint32)
        answers = generate(backbone, injection, tokens, mask, rows=seeds, **options)
        placed = place_rows((tokens, mask, answers), backbone.mesh)
        likely = on_host(likeliest(model, *placed, top=min(top, backbone.config.vocab_size)))
        for n, index in enumerate(indices):
            length = _length(answers[n], backbone, eval)
            kept = Likely(likely.words[n, :length], likely.log_probs[n, :length])
            lessons[index] = Lesson(answers[n, :length], kept)
    return [lesson for lesson in lessons if lesson is not None]


def _length(answer: Int[np.ndarray, " U"], backbone: Backbone, eval: EvalConfig) -> int:
    """Tokens of an answer up to the one that ends it."""
    ends = np.flatnonzero(np.isin(answer, (*backbone.config.eos_token_ids, *eval.stop_token_ids)))
    if not len(ends) and eval.stop_strings:  # Which end it without a token of their own.
        ends = np.flatnonzero(answer != backbone.config.filler)[-1:]
    return int(ends[0]) + 1 if len(ends) else len(answer)


def in_classes(log_probs: Float[Array, "B U K"]) -> Float[Array, "B U C"]:
    """Log-probabilities of the K words, and behind them that of all others, C = K + 1."""
    rest = 1.0 - jnp.exp(log_probs).sum(-1, keepdims=True)
    return jnp.concatenate([log_probs, jnp.log(jnp.maximum(rest, LEAST))], axis=-1)


def divergence(
    logits: Float[Array, "B U V"], likely: Likely, options: LossOptions
) -> Float[Array, "B U"]:
    """How far a student is from its teacher at every token, in nats."""
    # Normalised over all words before the few are picked: the mass of the others is then right.
    picked = jnp.take_along_axis(logits, likely.words, axis=-1)
    student = in_classes(picked - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
    if options.divergence == "cross_entropy":
        # No target token: an answer that was cut at its longest ends in none of the teacher's.
        return -student[..., 0]
    # Classes and not words are cooled or heated: the words that were not kept are not known.
    teacher, student = (
        jax.nn.log_softmax(side / options.temperature)
        for side in (in_classes(likely.log_probs), student)
    )
    if options.divergence == "reverse":
        teacher, student = student, teacher
    # Logits that are divided by T have gradients that are divided by its square.
    return options.temperature**2 * (jnp.exp(teacher) * (teacher - student)).sum(-1)


def loss(
    model: PromptedModel, batch: Batch, options: LossOptions
) -> tuple[Float[Array, ""], Array]:
    """The mean divergence of all target tokens, and how many they are."""
    logits = model.target_logits(batch.tokens, batch.mask, batch.targets)
    apart = divergence(logits, _taught(batch), options)
    count = batch.target_mask.sum()
    return jnp.where(batch.target_mask, apart, 0.0).sum() / jnp.maximum(count, 1), count


def _taught(batch: Batch) -> Likely:
    """What the teacher says at the targets of a batch."""
    if batch.likely is None:
        raise InputError(
            "the batch does not say what a teacher says of its targets; set its field likely, see "
            "prompt_jax.answers.distilled.teach, or train with prompt-jax distil"
        )
    return batch.likely


@jax.jit
def _compared(model: PromptedModel, batch: Batch) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
    """By row, the sum of the forward KL of all tokens, and of how many the likeliest word is one's.

    The temperature of training changes neither.
    """
    logits = model.target_logits(batch.tokens, batch.mask, batch.targets)
    likely = _taught(batch)
    apart = divergence(logits, likely, LossOptions())
    alike = logits.argmax(-1) == likely.words[..., 0]
    mask = batch.target_mask
    return jnp.where(mask, apart, 0.0).sum(1), (mask & alike).sum(1)


def fidelity(
    backbone: Backbone,
    injection: Injection | None,
    rows: list[np.ndarray],
    lessons: Sequence[Lesson],
    eval: EvalConfig,
) -> Scores:
    """How a model with an injection keeps to the lessons of a teacher.

    Args:
      rows: the tokens that it reads before each lesson's answer.

    Returns:
      `kl`, from the teacher to the model, nats a token; `agreement`, the share of tokens at which
      both have the same likeliest word.
    """
    injection, rows = read_ahead(backbone, injection, rows)
    injection = read_once(backbone, injection)
    model = PromptedModel.of(backbone, injection)
    virtual, filler = 0 if injection is None else injection.input_tokens, backbone.config.filler
    lengths = [len(lesson.tokens) for lesson in lessons]
    length = padded_length(max(lengths))
    apart, alike = 0.0, 0
    for indices, tokens, mask in batches_by_length(rows, eval.rows, virtual, filler):
        # The last batch is filled up with copies of its last row.
        picked = [lessons[i] for i in np.pad(indices, (0, len(tokens) - len(indices)), mode="edge")]
        targets = pad([lesson.tokens for lesson in picked], length, filler)
        likely = pad_likely([lesson.likely for lesson in picked], length)
        batch = place_rows(Batch(tokens, mask, *targets, likely=likely), backbone.mesh)
        sums = on_host(_compared(model, batch))
        apart += float(sums[0][: len(indices)].sum(dtype=np.float64))
        alike += int(sums[1][: len(indices)].sum())
    # Of equal distributions rounding leaves it on either side of zero.
    kl = max(apart / sum(lengths), 0.0)
    return Scores({"kl": kl, "agreement": alike / sum(lengths)}, "kl")


READOUT = dataclasses.replace(written.READOUT, loss=loss)
