"""Per-layer prompts: the states of the virtual tokens are replaced, or added to, in every layer."""

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import DeepPromptConfig
from prompt_jax.forward import Injection
from prompt_jax.methods.prompt_tuning import start_rows


def init(
    config: DeepPromptConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> dict[str, Any]:
    """`prompt` [P, D] for the input; by the path of its blocks, rows for every layer.

    These are [L, P, D] to add, or [L-1, P, D] to replace: the first layer has no rows of its own,
    which would leave those of the input dead.
    """
    rows = start_rows(config, backbone, key, start)
    # The stack that reads the input stands first.
    path, block = next(iter(backbone.sockets.blocks.items()))
    starts = [
        start_rows(config, backbone, jax.random.fold_in(key, i), start)
        for i in range(1, block.layers)
    ]
    layers = jnp.stack([rows, *starts])[1:]
    if config.how == "add":
        layers = jnp.zeros((block.layers, *rows.shape))
    return {"prompt": rows, **flax.traverse_util.unflatten_dict({path: layers}, sep="/")}


def materialize(config: DeepPromptConfig, tuned: dict[str, Any], key: Any = None) -> Injection:
    """The input's prompt, and every layer's own."""
    prompt = tuned["prompt"]
    stacks = {name: tree for name, tree in tuned.items() if name != "prompt"}

    def socket(layers: Array) -> dict[str, Any]:
        if config.how == "replace":
            layers = jnp.concatenate([prompt[None], layers])
        return {"prompt": {config.how: layers}}

    return Injection(prompt, sockets=jax.tree.map(socket, stacks))
