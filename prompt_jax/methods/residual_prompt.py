"""Residual prompt tuning (Razdaibiedina et al. 2023).

A prompt plus what a bottleneck that all its rows share makes of it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config.checks import each_at_least_one
from prompt_jax.forward import Injection
from prompt_jax.methods.method import register_method
from prompt_jax.methods.p_tuning import apply_linear, linear
from prompt_jax.methods.prompt_tuning import PromptTuningConfig, plain_prompt
from prompt_jax.methods.virtual_tokens import InputPrompt, start_rows
from prompt_jax.trees import Tuned


@dataclass(frozen=True, kw_only=True)
class ResidualPromptConfig(InputPrompt):
    """A soft prompt plus a shared bottleneck MLP of it (Razdaibiedina et al. 2023)."""

    kind = "residual_prompt"

    bottleneck_size: int = 64
    """Width inside the MLP."""

    def __post_init__(self):
        super().__post_init__()
        each_at_least_one(self, "bottleneck_size")


def init(
    config: ResidualPromptConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> Tuned:
    """`prompt` [P, D], the bottleneck's two maps, and the norm behind them.

    The norm's factor starts at zero, so the prompt starts as it is.
    """
    keys = jax.random.split(key, 3)
    width, inner = backbone.width, config.bottleneck_size
    return {
        "prompt": start_rows(config, backbone, keys[0], start),
        "mlp": [linear(keys[1], width, inner), linear(keys[2], inner, width)],
        "norm": {"scale": jnp.zeros(width), "bias": jnp.zeros(width)},
    }


def rows(tuned: Tuned) -> Float[Array, "P D"]:
    """P + LayerNorm(up(ReLU(down(P)))), figure 2 of the paper."""
    prompt, (down, up), norm = tuned["prompt"], tuned["mlp"], tuned["norm"]
    x = apply_linear(up, jax.nn.relu(apply_linear(down, prompt)))
    # The epsilon of torch's LayerNorm.
    x = jax.nn.standardize(x, axis=-1, epsilon=1e-5)
    scale, bias = (jnp.broadcast_to(norm[name], x.shape) for name in ("scale", "bias"))
    return prompt + x * scale + bias


def materialize(
    config: ResidualPromptConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> Injection:
    """The sum, as a prompt."""
    return Injection(rows(tuned))


def simplify(config: ResidualPromptConfig, tuned: Tuned) -> tuple[PromptTuningConfig, Tuned]:
    """The plain prompt that this one has become."""
    return plain_prompt(config, rows(tuned))


register_method(ResidualPromptConfig, init=init, materialize=materialize, simplify=simplify)
