"""Prompt tuning: P trained rows before the frozen token embeddings (Lester et al. 2021).

An initialiser is a closure `(key, shape) -> prompt`, so that they compose: class labels fill the
first rows and sampled vocabulary the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, PromptTuningConfig
from prompt_jax.config.prompts import InputPrompt
from prompt_jax.forward import Injection

Initializer = Callable[[Any, tuple[int, int]], Array]


def uniform(scale: float = 0.5) -> Initializer:
    """Noise in [-scale, scale); small beside T5's embeddings, and the slowest to train."""
    return lambda key, shape: jax.random.uniform(key, shape, minval=-scale, maxval=scale)


def from_vocab(table: Float[Array, "V D"], population: int) -> Initializer:
    """Rows drawn from the first `population` words; without replacement while there are enough."""
    population = min(population, table.shape[0])

    def init(key: Any, shape: tuple[int, int]) -> Array:
        rows = jax.random.choice(key, population, (shape[0],), replace=shape[0] > population)
        return jnp.asarray(table)[rows].astype(jnp.float32)

    return init


def from_rows(rows: Float[Array, "N D"], rest: Initializer) -> Initializer:
    """The given rows first, as many as fit; `rest` fills what is left."""

    def init(key: Any, shape: tuple[int, int]) -> Array:
        given = jnp.asarray(rows, jnp.float32)[: shape[0]]
        return jnp.concatenate([given, rest(key, (shape[0] - len(given), shape[1]))])

    return init


def from_text(embed: Callable[[Any], Array], tokens: Sequence[int]) -> Initializer:
    """The embedded text, repeated or cut to the length of the prompt, as PEFT does."""

    def init(key: Any, shape: tuple[int, int]) -> Array:
        return embed(np.resize(np.asarray(tokens), shape[0])).astype(jnp.float32)

    return init


def initializer(
    config: InputPrompt, backbone: Backbone, start: np.ndarray | None = None
) -> Initializer:
    """The initialiser that `config.start` names.

    Args:
      start: [P, D], what `config.init_file` holds; read by the caller, since methods open no file.

    Raises:
      InputError: the backbone has no tokenizer to read a text with or no row for one of its
        tokens, there are no label words, or the start has another width or length.
    """
    vocab = from_vocab(backbone.table, config.init_population)
    if config.start == "vocab":
        return vocab
    if config.start == "random":
        return uniform(config.init_scale)
    if config.start == "file":
        return lambda key, shape: _checked(start, shape)
    if backbone.tokenizer is None:
        raise InputError(
            f'init="{config.start}" needs a tokenizer and backbone {backbone.name!r} has none; '
            'use init="vocab"'
        )
    if config.start == "text":
        tokens = backbone.tokenizer(config.init_text)["input_ids"]
        backbone.check_tokens(tokens, "method.init_text")
        return from_text(backbone.embed, tokens)
    if not config.init_labels:
        raise InputError(
            'init="class_labels" needs label words: set task.labels or method.init_labels'
        )
    pieces = backbone.tokenizer(list(config.init_labels), add_special_tokens=False)["input_ids"]
    for piece, label in zip(pieces, config.init_labels, strict=True):
        backbone.check_tokens(piece, f"label word {label!r}")
    return from_rows(jnp.stack([backbone.embed(np.asarray(p)).mean(0) for p in pieces]), vocab)


def _checked(start: np.ndarray | None, shape: tuple[int, int]) -> Array:
    if start is None:
        raise InputError('init="file" needs the array of init_file; pass start=load_rows(path)')
    if start.shape != shape:
        raise InputError(
            f"the prompt in init_file is {list(start.shape)} and this one is {list(shape)} "
            "(virtual tokens, width); set num_virtual_tokens to match, or use the backbone "
            "that it was trained on"
        )
    return jnp.asarray(start, jnp.float32)


def start_rows(
    config: InputPrompt,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> Float[Array, "P D"]:
    """Where a prompt in the input starts, float32."""
    shape = (config.num_virtual_tokens, backbone.width)
    return initializer(config, backbone, start)(key, shape).astype(jnp.float32)


def init(
    config: PromptTuningConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> dict[str, Float[Array, "P D"]]:
    """The tuned tree of a fresh prompt: `prompt`, `decoder_prompt`, or both.

    Raises:
      InputError: as `initializer`, or the backbone has no decoder beside the stack it reads with.
    """
    if config.stack != "encoder" and len(backbone.sockets.blocks) == 1:
        raise InputError(
            f'stack is "{config.stack}" and backbone {backbone.name!r} has one stack only; use '
            'stack="encoder", which is its input'
        )
    names = {"encoder": ["prompt"], "decoder": ["decoder_prompt"]}
    names["both"] = names["encoder"] + names["decoder"]
    return {name: start_rows(config, backbone, key, start) for name in names[config.stack]}


def materialize(config: PromptTuningConfig, tuned: dict[str, Array], key: Any = None) -> Injection:
    """The prompt as it is; nothing is reparameterised here."""
    rows = tuned.get("decoder_prompt")
    sockets = {} if rows is None else {"decoder": {"prompt": rows}}
    return Injection(tuned.get("prompt"), sockets=sockets)
