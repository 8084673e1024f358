"""DePT: a short prompt, and a low-rank update of the text's embeddings (Shi and Lipani 2024)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import DecomposedPromptConfig
from prompt_jax.forward import Injection
from prompt_jax.methods.prompt_tuning import start_rows


def init(
    config: DecomposedPromptConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> dict[str, Array]:
    """`prompt` [P, D] and the update's factors `a` [T, R] and `b` [R, D], of zeros."""
    first, second = jax.random.split(key)
    return {
        "prompt": start_rows(config, backbone, first, start),
        "a": jax.random.normal(second, (config.max_length, config.r)) * config.r**-0.5,
        "b": jnp.zeros((config.r, backbone.width)),
    }


def materialize(
    config: DecomposedPromptConfig, tuned: dict[str, Array], key: Any = None
) -> Injection:
    """The prompt, and what is added to the embedding at every position of the text."""
    return Injection(tuned["prompt"], shift=config.shift_scale * tuned["a"] @ tuned["b"])
