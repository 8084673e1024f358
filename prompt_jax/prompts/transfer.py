"""Prompts as knowledge about tasks: which tasks are alike, and a prompt for another backbone."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, choose
from prompt_jax.prompts.composition import check_alike, input_rows, parent, plain_method
from prompt_jax.prompts.prompt import Prompt, prompt_for
from prompt_jax.trees import Tree, Tuned

Way = Literal["linear", "mlp", "combination"]
SKIPPED, MAX_WORDS = 1000, 4000
"""The most frequent words of a large shared vocabulary, left out, and how many are then used."""
HIDDEN, LEARNING_RATE, BATCH_SIZE, EPOCHS = 4, 3e-4, 50, 25
"""Width of the MLP in widths of the target, and its training (Lester et al. 2022)."""


class Similar(NamedTuple):
    """A row of `similarities`."""

    prompt: Prompt
    average: float
    """Cosine of the average tokens."""
    per_token: float
    """Average cosine of every token of the one with every token of the other."""


def task_embedding(prompt: Prompt) -> Float[np.ndarray, " D"]:
    """A vector for the task of a prompt: the mean of its rows (SPoT, section 3)."""
    return input_rows(prompt).mean(0)


def similarities(query: Prompt, library: Sequence[Prompt]) -> list[Similar]:
    """How alike the prompts of a library are to one, the likest first by the average token.

    A prompt that was trained on a like task is a good start for one that has little data
    (SPoT, Vu et al. 2022).

    Raises:
      InputError: the library is empty, or it holds a prompt without rows or of another backbone,
        width or placement.
    """
    if not library:
        raise InputError("there are no prompts to compare with; give at least one saved prompt")
    check_alike([query, *library])
    unit = _unit(input_rows(query))
    ranked = []
    for prompt in library:
        ends = np.stack([task_embedding(query), task_embedding(prompt)])
        average = _unit(ends)[0] @ _unit(ends)[1]
        per_token = (unit @ _unit(input_rows(prompt)).T).mean()
        ranked.append(Similar(prompt, float(average), float(per_token)))
    return sorted(ranked, key=lambda similar: -similar.average)


def _unit(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def recycle(
    prompt: Prompt,
    source_backbone: Backbone,
    target_backbone: Backbone,
    how: str = "linear",
    words: Sequence[str] | None = None,
    seed: int = 0,
) -> Prompt:
    """A prompt of one backbone made into one of another, by the words that both know.

    What takes the embeddings of words from the one model to the other takes the prompt there too
    (Lester et al. 2022, Reducing retraining by recycling parameter-efficient prompts). It is a
    start, and needs no training; evaluate it before it is used.

    Args:
      target_backbone: with a tokenizer; only tokens of the same spelling are shared.
      how: `linear` maps by least squares; `mlp` trains a hidden layer; `combination` writes every
        row as a combination of source words and takes the same one of target words.
      words: tokens to go by, as the tokenizers spell them; those that are not shared are left out.
        None takes up to 4,000 shared ones in the order of the source's vocabulary, and leaves the
        first 1,000 out where enough are left.

    Raises:
      InputError: another `how`, a prompt without rows or of another backbone, no tokenizer, or no
        shared words.
    """
    choose("way to recycle a prompt", how, get_args(Way))
    rows = input_rows(prompt)
    prompt.on(source_backbone)
    source, target = _shared(source_backbone, target_backbone, words)
    if how == "linear":
        carried = rows @ _least_squares(source, target)
    elif how == "combination":
        carried = _least_squares(source.T, rows.T).T @ target
    else:
        carried = np.asarray(_by_mlp(jax.random.key(seed), source, target, rows))
    recipe = {
        "recycled": how,
        "words": len(source),
        "parents": [parent(prompt) | {"backbone": source_backbone.name}],
    }
    if how == "mlp":
        recipe["seed"] = seed
    method = plain_method(prompt, len(carried))
    about: dict[str, Any] = {"name": prompt.name, "task": prompt.task, "recipe": recipe}
    return prompt_for({"prompt": carried}, method, target_backbone, **about)


def _shared(
    source: Backbone, target: Backbone, words: Sequence[str] | None
) -> tuple[Float[np.ndarray, "W D"], Float[np.ndarray, "W E"]]:
    """The embeddings of shared words in both models, W words each."""
    vocabularies = _vocabulary(source), _vocabulary(target)
    # Ids count down in frequency, so their order is that of the words.
    named = sorted(vocabularies[0], key=vocabularies[0].__getitem__) if words is None else words
    shared = [
        w for w in dict.fromkeys(named) if all(w in vocabulary for vocabulary in vocabularies)
    ]
    if not shared:
        kind = "word" if words is None else "given word"
        raise InputError(
            f"no {kind} is a token of both {source.name!r} and {target.name!r}; recycle between "
            "backbones whose vocabularies overlap, and spell words as the tokenizers do (▁film)"
        )
    if words is None:
        large = len(shared) >= SKIPPED + MAX_WORDS
        shared = shared[SKIPPED if large else 0 :][:MAX_WORDS]
    picked = [
        np.asarray(backbone.table, np.float32)[[vocabulary[w] for w in shared]]
        for backbone, vocabulary in zip((source, target), vocabularies, strict=True)
    ]
    return picked[0], picked[1]


def _vocabulary(backbone: Backbone) -> dict[str, int]:
    """Ids of the tokens that stand for text and have an embedding."""
    tokenizer = backbone.tokenizer
    if tokenizer is None:
        raise InputError(
            f"recycle finds words by their spelling and backbone {backbone.name!r} has no "
            "tokenizer; give load_backbone(..., tokenizer=FOLDER or hub id)"
        )
    special, rows = set(tokenizer.all_special_ids), len(backbone.table)
    return {w: i for w, i in tokenizer.get_vocab().items() if i < rows and i not in special}


def _least_squares(
    inputs: Float[np.ndarray, "N A"], outputs: Float[np.ndarray, "N C"]
) -> Float[np.ndarray, "A C"]:
    """The smallest map that takes the inputs nearest to the outputs."""
    return np.linalg.lstsq(inputs, outputs, rcond=None)[0]


@functools.partial(jax.jit, static_argnames=("epochs",))
def _by_mlp(
    key: PRNGKeyArray,
    source: Float[Array | np.ndarray, "W D"],
    target: Float[Array | np.ndarray, "W E"],
    rows: Float[Array | np.ndarray, "P D"],
    epochs: int = EPOCHS,
) -> Float[Array, "P E"]:
    """The rows through a hidden layer that was trained to take source words to target words."""
    import optax

    count, (width, out) = len(source), (source.shape[1], target.shape[1])
    size = min(BATCH_SIZE, count)
    first, second, orders = jax.random.split(key, 3)
    lecun = jax.nn.initializers.lecun_normal()
    params = {
        "in": (lecun(first, (width, HIDDEN * out)), jnp.zeros(HIDDEN * out)),
        "out": (lecun(second, (HIDDEN * out, out)), jnp.zeros(out)),
    }
    optimizer = optax.adam(LEARNING_RATE)

    def mapped(params: Tuned, inputs: Float[Array | np.ndarray, "N D"]) -> Float[Array, "N E"]:
        (kernel, bias), (last, shift) = params["in"], params["out"]
        return jax.nn.relu(inputs @ kernel + bias[None, :]) @ last + shift[None, :]

    def loss(params: Tuned, picked: Array) -> Array:
        return optax.l2_loss(mapped(params, source[picked]), target[picked]).mean()

    def step(state: tuple[Tree, Tree], picked: Array) -> tuple[tuple[Tree, Tree], None]:
        params, memory = state
        updates, memory = optimizer.update(jax.grad(loss)(params, picked), memory, params)
        return (optax.apply_updates(params, updates), memory), None

    # What an epoch's last batch would lack is left to the next epoch's order.
    order = jax.vmap(lambda key: jax.random.permutation(key, count))
    batches = order(jax.random.split(orders, epochs))[:, : count // size * size]
    state = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, state, batches.reshape(-1, size))
    return mapped(params, rows)
