"""DePT: a short prompt, and a low-rank update of the text's embeddings (Shi and Lipani 2024)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config.checks import each_at_least_one
from prompt_jax.forward import Injection
from prompt_jax.methods.method import register_method
from prompt_jax.methods.virtual_tokens import InputPrompt, start_rows
from prompt_jax.trees import Tuned


@dataclass(frozen=True, kw_only=True)
class DecomposedPromptConfig(InputPrompt):
    """A short prompt and a low-rank update of the text's embeddings (DePT, Shi and Lipani 2024)."""

    kind = "decomposed_prompt"

    r: int = 8
    """R, the rank of the update."""
    max_length: int = 256
    """T, how many text positions are updated; later ones are not."""
    shift_scale: float = 0.01
    """What the update is multiplied by, so that at one rate it moves so much slower than the
    prompt; the paper has a second, smaller rate."""

    def __post_init__(self):
        super().__post_init__()
        each_at_least_one(self, "r", "max_length")


def init(
    config: DecomposedPromptConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> Tuned:
    """`prompt` [P, D] and the update's factors `a` [T, R] and `b` [R, D], of zeros."""
    first, second = jax.random.split(key)
    return {
        "prompt": start_rows(config, backbone, first, start),
        # With this factor the size of a @ b does not depend on the rank.
        "a": jax.random.normal(second, (config.max_length, config.r)) * config.r**-0.5,
        "b": jnp.zeros((config.r, backbone.width)),
    }


def materialize(
    config: DecomposedPromptConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> Injection:
    """The prompt, and what is added to the embedding at every position of the text."""
    return Injection(tuned["prompt"], shift=config.shift_scale * tuned["a"] @ tuned["b"])


register_method(DecomposedPromptConfig, init=init, materialize=materialize)
