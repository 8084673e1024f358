"""Words for a soft prompt, found by projected gradients (PEZ, Wen et al. 2023)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, TrainConfig, at_least
from prompt_jax.data import Batch, prefetch
from prompt_jax.experiment.saved import SavedRun
from prompt_jax.forward import Injection
from prompt_jax.lines import Say
from prompt_jax.prompts.composition import input_rows
from prompt_jax.train import State, fit, start
from prompt_jax.trees import Frozen, Tuned


class Projected(NamedTuple):
    """A text in place of a soft prompt."""

    text: str
    words: list[int]
    """The tokens that it was decoded from."""
    step: int
    """Of the optimisation; 0 is the nearest words themselves."""
    injections: dict[str, Injection]
    """Ways to compare: the soft prompt, its nearest words, and the text as the model reads it."""


def project(
    run: SavedRun,
    *,
    steps: int = 200,
    every: int = 20,
    learning_rate: float | None = None,
    seed: int = 0,
    say: Say = print,
) -> Projected:
    """Words with which the frozen model answers as nearly as it can as with the soft prompt.

    Continuous rows are trained, and before every forward pass each is replaced by its nearest
    word; the gradient of the words goes to the rows. They start at the words nearest to the prompt.
    The words that are best on validation are taken.

    Args:
      every: steps between two looks at validation.
      learning_rate: of AdamW; None is twice the root mean square of word embeddings.

    Raises:
      InputError: the backbone has no tokenizer, or as `fit`.
    """
    at_least("steps", steps, 1)
    at_least("every", every, 1)
    prompt, backbone = run.prompt, run.backbone
    if backbone.tokenizer is None:
        raise InputError(
            f"words are written with a tokenizer and backbone {backbone.name!r} has none; give "
            "load_backbone(..., tokenizer=FOLDER or hub id)"
        )
    ids = backbone.word_ids
    table = jnp.asarray(backbone.table)[jnp.asarray(ids)].astype(jnp.float32)
    plain = run.loss

    def loss(
        tuned: Tuned, frozen: tuple[Frozen, Array], batch: Batch, key: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        params, table = frozen
        rows = tuned["prompt"]
        hard = table[nearest(rows, table)]
        return plain({"prompt": rows + jax.lax.stop_gradient(hard - rows)}, params, batch, key)

    def with_rows(rows: Array) -> Injection:
        return prompt.injection()._replace(prompt=rows)

    first = nearest(jnp.asarray(input_rows(prompt)), table)
    rate = 2.0 * backbone.word_size if learning_rate is None else learning_rate
    config = TrainConfig(
        steps=steps, optimizer="adamw", learning_rate=rate, seed=seed, weight_decay=0.0
    )
    best = first, run.quality(with_rows(table[first])), 0
    say(f"step 0 of {steps}: {run.measure} {best[1]:.3f}")

    def look(step: int, state: State | None, metrics: dict[str, float]) -> bool:
        nonlocal best
        if state is None:
            return False
        chosen = nearest(state.tuned["prompt"], table)
        quality = run.quality(with_rows(table[chosen]))
        say(f"step {step} of {steps}: {run.measure} {quality:.3f}")
        if quality > best[1]:
            best = chosen, quality, step
        return False

    fit(
        loss,
        start({"prompt": table[first]}, config),
        # The table beside the frozen tree gets no gradient, and is no constant of the program.
        (backbone.unstacked(), table),
        prefetch(run.batches, 0, steps),
        config,
        after_step=look,
        due=lambda step: step % every == 0 or step == steps,
        mesh=backbone.mesh,
    )
    words = ids[np.asarray(best[0])].tolist()
    text = backbone.tokenizer.decode(words).strip()
    read = read_again(text, backbone)
    injections = {
        "soft prompt": prompt.injection(),
        "its nearest words": with_rows(table[first]),
        "the text": with_rows(jnp.asarray(backbone.embed(np.asarray(read)), jnp.float32)),
    }
    return Projected(text, words, best[2], injections)


def nearest(rows: Float[Array, "P D"], table: Float[Array, "W D"]) -> Int[Array, " P"]:
    """The places of the words nearest to rows, by cosine: trained rows are much longer."""
    # The length of a row does not change which word is nearest to it.
    lengths = jnp.linalg.norm(table, axis=1)
    return (rows @ table.T / jnp.maximum(lengths, 1e-12)[None]).argmax(1)


def read_again(text: str, backbone: Backbone) -> list[int]:
    """The tokens of a text, as a model reads it that gets it from a user."""
    tokens = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise InputError(
            "the words that were found are an empty text; take more steps, or another seed"
        )
    return tokens
