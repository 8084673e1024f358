"""Several prompts answer as one, in one batch: they share the frozen model (Lester et al. 2021)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.answers.answering import answer
from prompt_jax.answers.readout import Answers
from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig, InputError, choose
from prompt_jax.forward import Injection
from prompt_jax.tasks import Task

WAYS = ("average", "vote", "weighted")
ROUNDS = 1000
"""Of expectation and maximisation at most, which take microseconds each."""


def ensemble(
    backbone: Backbone,
    injections: Sequence[Injection],
    sources: Sequence[str],
    task: Task,
    *,
    data: DataConfig,
    eval: EvalConfig,
    how: str = "average",
    weights: Sequence[float] | None = None,
) -> Answers:
    """What M prompts say together to every input, in the order of the inputs.

    Returns:
      Answers and the scores of `combine`.
    """
    check_weights(how, weights, len(injections))
    log_probs = ask_each(backbone, injections, sources, task, data=data, eval=eval)
    best, scores = combine(log_probs, how, weights)
    return Answers([task.choices[label] for label in best], scores)


def ask_each(
    backbone: Backbone,
    injections: Sequence[Injection],
    sources: Sequence[str],
    task: Task,
    *,
    data: DataConfig,
    eval: EvalConfig,
) -> Float[np.ndarray, "N M C"]:
    """The log-probability of every label by each of M prompts, normalised over the labels.

    Every input stands M times in a batch, each time behind another prompt, so M prompts cost one
    model in memory and one compiled program.

    Args:
      injections: M prompts [P, D] for the input; lengths may differ where they stand first.
      eval: `batch_size` counts rows, so a batch holds `batch_size // M` inputs, at least one.

    Raises:
      InputError: no prompts, more than rows in the input in one of them, prompts that do not fit
        together or the backbone, a task without labels, or as `answer`.
    """
    if not task.choices:
        raise InputError(
            f"task {task.name!r} has no labels and an ensemble ranks labels; set task.labels, or "
            "answer with one prompt"
        )
    prompts, masks = _stacked(injections, backbone)
    count = len(injections)
    inputs = max(1, eval.rows // count)
    repeated = Injection(
        # Tiled and not repeated: an input's copies stand side by side, one for each prompt.
        jnp.tile(prompts, (inputs, 1, 1)),
        jnp.tile(masks, (inputs, 1)),
        placement=injections[0].placement,
    )
    # `answer` sorts by length and keeps the order of equals, so that the copies of an input stay
    # together and every batch, a multiple of M, begins with the first prompt.
    answers = answer(
        backbone,
        repeated,
        [source for source in sources for _ in range(count)],
        task,
        data=data,
        eval=dataclasses.replace(eval, batch_size=inputs * count),
    )
    # Normalised by prompt, or one that finds every label unlikely would count for less.
    scores = np.asarray(jax.nn.log_softmax(jnp.asarray(answers.scores), axis=-1))
    return scores.reshape(len(sources), count, len(task.choices))


def combine(
    log_probs: Float[np.ndarray, "N M C"],
    how: str = "average",
    weights: Sequence[float] | None = None,
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N C"]]:
    """The label that prompts choose together, and how likely each is.

    Args:
      log_probs: normalised over the labels.
      how: `average` takes the label of the highest mean log-probability; `vote` the one that most
        prompts rank first, and the average among labels of equally many votes; `weighted` the one
        of the highest mean probability, each prompt's counted by its weight.
      weights: M numbers of `weighted`, from 0 on, at least one above it.

    Returns:
      Scores are mean log-probabilities, or of `weighted` the log of the mean probability.
    """
    check_weights(how, weights, log_probs.shape[1])
    if how == "weighted":
        # Probabilities are mixed and not logarithms: `fit_weights` fits those of a mixture.
        shares = np.array(weights, np.float64)
        shares = shares / shares.sum()
        scores = np.log(_mixed(np.exp(log_probs), shares)).astype(np.float32)
        return scores.argmax(-1), scores
    mean = log_probs.mean(1)
    return (_most_voted(log_probs, mean) if how == "vote" else mean.argmax(-1)), mean


def fit_weights(
    log_probs: Float[np.ndarray, "N M C"], labels: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " M"]:
    """The weights of M prompts under which the right labels of N inputs are likeliest together.

    Expectation and maximisation of a mixture whose parts are fixed: every round makes the right
    labels likelier, and the best weights are the same from wherever it starts. Fit them on rows of
    validation that no prompt was trained on.

    Returns:
      Shares from 0 on that sum to 1.
    """
    right = np.take_along_axis(np.exp(log_probs), labels[:, None, None], axis=2)[:, :, 0]
    # A label that every prompt rules out would give 0 / 0 below.
    right = np.maximum(right.astype(np.float64), np.finfo(np.float32).tiny)
    weights = np.full(log_probs.shape[1], 1 / log_probs.shape[1])
    for _ in range(ROUNDS):
        parts = right * weights
        new = (parts / parts.sum(1, keepdims=True)).mean(0)
        if np.abs(new - weights).max() < 1e-9:
            return new
        weights = new
    return weights


def _mixed(probs: Float[np.ndarray, "N M C"], shares: Float[np.ndarray, " M"]) -> np.ndarray:
    return np.maximum(np.einsum("nmc,m->nc", probs, shares), np.finfo(np.float32).tiny)


def check_weights(how: str, weights: Sequence[float] | None, count: int) -> None:
    """Checks that several prompts can answer together in this way."""
    choose("way to ensemble prompts", how, WAYS)
    if (weights is not None) != (how == "weighted"):
        raise InputError(
            f"weights belong to how='weighted', got how={how!r} and "
            f"{'no weights' if weights is None else 'weights'}; fit them on validation "
            "(fit_weights), or leave them out"
        )
    if weights is None:
        return
    if len(weights) != count or min(weights) < 0 or not 0 < sum(weights) < np.inf:
        raise InputError(
            f"weights are {count} numbers from 0 on, one a prompt and not all 0, got {weights}"
        )


def _most_voted(scores: Float[np.ndarray, "N M C"], mean: Float[np.ndarray, "N C"]) -> np.ndarray:
    votes = (scores.argmax(-1)[:, :, None] == np.arange(scores.shape[-1])).sum(1)
    return np.where(votes == votes.max(-1, keepdims=True), mean, -np.inf).argmax(-1)


def _stacked(
    injections: Sequence[Injection], backbone: Backbone
) -> tuple[Float[Array, "M P D"], Bool[Array, "M P"]]:
    """All prompts as long as the longest one, and where their rows are real."""
    if not injections:
        raise InputError("an ensemble has at least one prompt, got none; give injections")
    for i, injection in enumerate(injections):
        _check(i, injection, backbone)
    lengths = [injection.input_tokens for injection in injections]
    longest = max(lengths)
    placements = sorted({injection.placement for injection in injections})
    if len(placements) > 1:
        raise InputError(
            f"the prompts of an ensemble stand at {' and '.join(placements)}; use prompts of one "
            "placement"
        )
    placement = placements[0]
    if placement != "prefix" and min(lengths) < longest:
        raise InputError(
            f"prompts of {', '.join(map(str, lengths))} virtual tokens cannot share a batch at "
            f'placement="{placement}", where padding would part them from the text; use prompts '
            'of equal length, or placement="prefix"'
        )
    prompts, masks = [], []
    for injection, length in zip(injections, lengths, strict=True):
        real = injection.prompt_mask
        real = jnp.ones(length, bool) if real is None else jnp.asarray(real)
        # On the left, where it parts no row from the text.
        prompts.append(jnp.pad(jnp.asarray(injection.prompt), ((longest - length, 0), (0, 0))))
        masks.append(jnp.pad(real, (longest - length, 0)))
    return jnp.stack(prompts), jnp.stack(masks)


def _check(i: int, injection: Injection, backbone: Backbone) -> None:
    others = {
        "sockets": bool(injection.sockets),
        "a shift of the embeddings": injection.shift is not None,
        "weights of its own": injection.params is not None,
        "a head": injection.head is not None,
    }
    present = [part for part, there in others.items() if there]
    if present:
        raise InputError(
            f"prompt {i} of the ensemble has {' and '.join(present)}, which rows of a batch cannot "
            "have each for itself; use methods that only put virtual tokens before the input"
        )
    shape = () if injection.prompt is None else injection.prompt.shape
    if len(shape) != 2 or shape[1] != backbone.width:
        raise InputError(
            f"prompt {i} of the ensemble must be [P, {backbone.width}], got "
            f"{list(shape) or 'no virtual tokens'}; use prompts of backbone {backbone.name!r}"
        )
