"""Prompt adapters: virtual tokens feed a branch beside every feed-forward.

LoRA's branch is two matrices a layer. Here all layers share one prompt [P, D]: a layer's input
meets the virtual tokens as keys, and what they weigh comes back as values, with a gate [D] of the
layer on either side. So the whole adapter is a prompt and 2 L gates, and is swapped like a prompt.
"""

from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import PromptAdapterConfig
from prompt_jax.forward import Injection
from prompt_jax.methods.prompt_tuning import from_vocab


def init(
    config: PromptAdapterConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> dict[str, Any]:
    """`tokens` [P, D] of unit length, and by block `key_gate` and `value_gate` [L, D].

    Values' gates start at zero, and so does the branch.
    """
    draw = from_vocab(backbone.table, config.init_population)
    tokens = draw(key, (config.num_virtual_tokens, backbone.width))
    tokens = tokens / jnp.linalg.norm(tokens, axis=-1, keepdims=True)
    blocks = {
        path: {
            "key_gate": jnp.ones((block.layers, block.width)),
            "value_gate": jnp.zeros((block.layers, block.width)),
        }
        for path, block in backbone.sockets.blocks.items()
    }
    return {"tokens": tokens, "blocks": flax.traverse_util.unflatten_dict(blocks, sep="/")}


def materialize(config: PromptAdapterConfig, tuned: dict[str, Any], key: Any = None) -> Injection:
    """A parallel adapter of every feed-forward: down is the gated tokens, up is them again."""
    tokens, sockets = tuned["tokens"], {}
    for (*path, name), gate in flax.traverse_util.flatten_dict(tuned["blocks"]).items():
        rows = jnp.einsum("pd,ld->lpd", tokens, gate)
        socket, rows = ("down", rows.swapaxes(1, 2)) if name == "key_gate" else ("up", rows)
        sockets[(*path, "parallel", "mlp", socket)] = rows
    return Injection(sockets=flax.traverse_util.unflatten_dict(sockets))
