"""Trained prompts mixed by weights that a task's examples decide (ATTEMPT, Asai et al. 2022)."""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, TrainConfig, resolved
from prompt_jax.data import Batch, prefetch
from prompt_jax.experiment.answering import batches_of
from prompt_jax.experiment.splits import check_one, digest, for_backbone, load_data
from prompt_jax.losses import loss_fn
from prompt_jax.prompts import Prompt, prompt_for
from prompt_jax.prompts.composition import check_mixable, parent, plain_method
from prompt_jax.train import fit, start
from prompt_jax.trees import Frozen, Tuned


def compose_attention(
    prompts: Sequence[Prompt],
    backbone: Backbone,
    batches: Iterable[Batch],
    config: TrainConfig | None = None,
    *,
    name: str = "",
) -> Prompt:
    """The mixture of frozen prompts that serves a task best, plus rows of its own.

    Trained are one logit a source and a prompt that starts at zero; the sources stay what they
    are. ATTEMPT weighs its sources anew for every input. Here a task has one set of weights, so
    that the result is an ordinary prompt, which costs, loads and swaps like any other.

    Args:
      prompts: the sources, at least two, of this backbone, equal length and one placement.
      batches: one for every step that shall be made.
      config: None is Lester et al.'s optimizer, as for a prompt.

    Raises:
      InputError: fewer than two prompts, or prompts that do not fit together or the backbone.
      DivergedError: the loss is no longer a number.
    """
    check_mixable(prompts, "attention")
    for prompt in prompts:
        prompt.on(backbone)
    sources = np.stack([prompt.rows for prompt in prompts])
    method = plain_method(prompts[0], sources.shape[1])
    plain = loss_fn(method, backbone)

    def loss(
        tuned: Tuned, frozen: tuple[Frozen, Array], batch: Batch, key: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        params, sources = frozen
        return plain({"prompt": mixed(tuned, sources)}, params, batch, key)

    config = config or TrainConfig()
    # From zeros all sources weigh the same, and the task's own rows add nothing.
    tuned = {"logits": jnp.zeros(len(sources)), "prompt": jnp.zeros(sources.shape[1:])}
    # Sources beside the frozen tree get no gradient, and are no constants of the program.
    frozen = (backbone.unstacked(), sources)
    state = fit(loss, start(tuned, config), frozen, batches, config, mesh=backbone.mesh)
    weights = jax.nn.softmax(state.tuned["logits"])
    recipe = {
        "composed": "attention",
        "weights": np.asarray(weights).tolist(),
        "steps": int(state.step),
        "parents": [parent(p) for p in prompts],
    }
    rows = mixed(state.tuned, jnp.asarray(sources))
    return prompt_for({"prompt": rows}, method, backbone, name=name, recipe=recipe)


def train_attention(
    config: Config, prompts: Sequence[Prompt], backbone: Backbone, *, name: str = ""
) -> Prompt:
    """`compose_attention` on the training rows of `config.data.task`, as `config.train` says."""
    check_one(config, "attention")
    check_mixable(prompts, "attention")
    data = for_backbone(load_data(config), config, backbone)
    train = resolved(config, backbone.word_size).train
    batches = batches_of(config, prompts[0].method, backbone, data.train, data.task)
    # Batches are a function of the step, so the next ones are prepared while one is used.
    steps = prefetch(batches, 0, train.steps)
    mixture = compose_attention(prompts, backbone, steps, train, name=name)
    held_out = {data.task.name: digest(data.validation)} if data.held_out else {}
    recipe = {**mixture.recipe, "data": dataclasses.asdict(config.data), "held_out": held_out}
    return dataclasses.replace(mixture, task=data.task, recipe=recipe)


def mixed(tuned: Tuned, sources: Float[Array | np.ndarray, "N P D"]) -> Float[Array, "P D"]:
    """The weighted sources and the task's own rows."""
    weights = jax.nn.softmax(tuned["logits"])
    return tuned["prompt"] + jnp.einsum("n,npd->pd", weights, sources)
