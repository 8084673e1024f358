"""Per-layer prompts: the states of the virtual tokens are replaced, or added to, in every layer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import DeepPromptConfig
from prompt_jax.methods.injection import Injection
from prompt_jax.methods.prompt_tuning import start_rows


def init(
    config: DeepPromptConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> dict[str, Array]:
    """`prompt` [P, D] for the input and `layers`: [L-1, P, D] to replace, or [L, P, D] to add.

    The first layer of `replace` has no rows of its own, which would leave those of the input dead.
    """
    rows = start_rows(config, backbone, key, start)
    (block,) = (b for b in backbone.sockets.blocks.values() if b.role == "encoder")
    if config.how == "add":
        return {"prompt": rows, "layers": jnp.zeros((block.layers, *rows.shape))}
    starts = [
        start_rows(config, backbone, jax.random.fold_in(key, i), start)
        for i in range(1, block.layers)
    ]
    return {"prompt": rows, "layers": jnp.stack([rows, *starts])[1:]}


def materialize(config: DeepPromptConfig, tuned: dict[str, Array], key: Any = None) -> Injection:
    """The input's prompt, and every layer's own."""
    layers = tuned["layers"]
    if config.how == "replace":
        layers = jnp.concatenate([tuned["prompt"][None], layers])
    return Injection(
        tuned["prompt"], sockets={"encoder": {"layers": {"prompt": {config.how: layers}}}}
    )
