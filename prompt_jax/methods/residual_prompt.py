"""Residual prompt tuning (Razdaibiedina et al. 2023).

A prompt plus what a bottleneck that all its rows share makes of it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import PromptTuningConfig, ResidualPromptConfig
from prompt_jax.forward import Injection
from prompt_jax.methods.p_tuning import apply_linear, linear, plain_prompt
from prompt_jax.methods.prompt_tuning import start_rows


def init(
    config: ResidualPromptConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> dict[str, Any]:
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


def rows(tuned: dict[str, Any]) -> Float[Array, "P D"]:
    """P + LayerNorm(up(ReLU(down(P)))), figure 2 of the paper."""
    prompt, (down, up), norm = tuned["prompt"], tuned["mlp"], tuned["norm"]
    x = apply_linear(up, jax.nn.relu(apply_linear(down, prompt)))
    x = jax.nn.standardize(x, axis=-1, epsilon=1e-5)
    scale, bias = (jnp.broadcast_to(norm[name], x.shape) for name in ("scale", "bias"))
    return prompt + x * scale + bias


def materialize(config: ResidualPromptConfig, tuned: dict[str, Any], key: Any = None) -> Injection:
    """The sum, as a prompt."""
    return Injection(rows(tuned))


def simplify(config: ResidualPromptConfig, tuned: Any) -> tuple[PromptTuningConfig, Any]:
    """The plain prompt that this one has become."""
    return plain_prompt(config, rows(tuned))
