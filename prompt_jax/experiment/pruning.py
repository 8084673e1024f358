"""Virtual tokens that can go at no loss, by the gradient of a mask (XPrompt, Ma et al. 2022)."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax import report
from prompt_jax.config import IN_CHATS, InputError, at_least
from prompt_jax.data import Batch
from prompt_jax.experiment.saved import SavedRun
from prompt_jax.forward import Injection
from prompt_jax.losses import Loss
from prompt_jax.prompts import Prompt, prompt_for
from prompt_jax.prompts.composition import input_rows, parent, plain_method
from prompt_jax.trees import Frozen

LENGTHS = 24
"""Different numbers of kept tokens that are scored at most."""


class Pruned(NamedTuple):
    """A prompt with fewer virtual tokens."""

    prompt: Prompt
    kept: list[int]
    """Places of its tokens in the whole prompt."""
    importance: Float[np.ndarray, " P"]
    curve: dict[int, float]
    """Kept tokens -> `SavedRun.quality`, the whole prompt first."""


def prune(run: SavedRun, *, tolerance: float = 0.01, batches: int = 16, name: str = "") -> Pruned:
    """The fewest virtual tokens with which the prompt is as good on validation.

    The least important go first, and nothing is trained.

    Args:
      tolerance: nats that the right answers may become less likely.
      batches: of training rows, that importance is measured on.

    Raises:
      InputError: a prompt that stands behind some of an encoder's text, or a negative tolerance.
    """
    at_least("tolerance", tolerance, 0.0, "0 keeps all that lose anything")
    at_least("batches", batches, 1)
    prompt, backbone = run.prompt, run.backbone
    place, rows = prompt.method.place, input_rows(prompt)
    # As for prompts of several lengths in a batch, see `serve.prompts`.
    if backbone.target_place != "behind" and place not in ("prefix", *IN_CHATS):
        raise InputError(
            f'{prompt.label} stands at "{place}", where masked tokens would shift the text of '
            f'{backbone.name!r}; prune prompts at "prefix"'
        )
    steps = (run.batches[step] for step in range(batches))
    importance = token_importance(run.loss, rows, backbone.unstacked(), steps)
    order = np.argsort(-importance, kind="stable")
    lengths = np.linspace(len(rows), 1, min(len(rows), LENGTHS)).round().astype(int).tolist()
    curve = {count: run.quality(only(prompt, order[:count])) for count in lengths}
    least = curve[len(rows)] - tolerance
    kept = np.sort(order[: min(count for count, value in curve.items() if value >= least)])
    recipe = {
        **prompt.recipe,
        "pruned": {
            "tolerance": tolerance,
            "kept": kept.tolist(),
            "importance": importance.tolist(),
            "curve": list(curve.items()),
        },
        "parents": [parent(prompt)],
    }
    pruned = prompt_for(
        {"prompt": rows[kept]},
        plain_method(prompt, len(kept)),
        backbone,
        name=name or prompt.name,
        task=prompt.task,
        recipe=recipe,
    )
    return Pruned(pruned, kept.tolist(), importance, curve)


def token_importance(
    loss: Loss, rows: Float[np.ndarray, "P D"], frozen: Frozen, batches: Iterable[Batch]
) -> Float[np.ndarray, " P"]:
    """How much the loss of a row depends on each virtual token (XPrompt, section 3.2).

    A mask of ones multiplies the tokens; importance is the mean over training rows of the absolute
    gradient of each token's mask.

    Args:
      loss: takes `{"prompt": [B, P, D]}`.
    """

    @jax.jit
    def gradients(rows: Array, frozen: Frozen, batch: Batch) -> Float[Array, " P"]:
        def mean(mask: Float[Array, "B P"]) -> Float[Array, ""]:
            return loss({"prompt": mask[:, :, None] * rows[None]}, frozen, batch)[0]

        # A mask for each row of the batch: gradients of rows would cancel out in a common one.
        ones = jnp.ones((len(batch.tokens), len(rows)))
        return jnp.abs(jax.grad(mean)(ones)).sum(0)

    sums = [np.asarray(gradients(jnp.asarray(rows), frozen, batch)) for batch in batches]
    return np.mean(sums, axis=0)


def only(prompt: Prompt, kept: Int[np.ndarray, " K"]) -> Injection:
    """The prompt with the virtual tokens of these places alone, in the shape of the whole one.

    One program then serves every number of tokens.
    """
    rows = input_rows(prompt)
    real: Bool[np.ndarray, " P"] = np.isin(np.arange(len(rows)), kept)
    # Masked tokens go in front, where they shift no distance between the others and the text.
    order = np.argsort(real, kind="stable")
    injection = prompt.injection()
    return injection._replace(prompt=jnp.asarray(rows[order]), prompt_mask=jnp.asarray(real[order]))


def draw_pruning(path: Path, pruned: Pruned, measure: str) -> None:
    """Quality over kept tokens, as a PNG."""
    figure = report.new_figure(8, 4.5)
    axes = figure.subplots()
    axes.plot(list(pruned.curve), list(pruned.curve.values()), "o-", ms=4)
    axes.axvline(len(pruned.kept), color="tab:red", ls="--", lw=1, label="kept")
    axes.set(xlabel="virtual tokens that are kept", ylabel=f"{measure} on validation, nats")
    axes.legend(frameon=False)
    report.save_figure(path, figure)
