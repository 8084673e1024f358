"""Prompt adapters: virtual tokens feed a branch beside every feed-forward.

LoRA's branch is two matrices a layer. Here all layers share one prompt [P, D]: a layer's input
meets the virtual tokens as keys, and what they weigh comes back as values, with a gate [D] of the
layer on either side. So the whole adapter is a prompt and 2 L gates, and is swapped like a prompt.
"""

from dataclasses import dataclass

import flax.traverse_util
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.forward import Injection
from prompt_jax.methods.method import register_method
from prompt_jax.methods.virtual_tokens import VirtualTokens, from_vocab
from prompt_jax.trees import Tuned


@dataclass(frozen=True, kw_only=True)
class PromptAdapterConfig(VirtualTokens):
    """A branch beside every feed-forward that is fed by virtual tokens, as LoRA is by its factors.

    Virtual tokens are shared by all layers: as keys they meet the layer's input, as values they
    answer; each layer only has a gate on either side.
    """

    kind = "prompt_adapter"
    rates = {"adamw": 1e-2}

    init_population: int = 5000
    """Virtual tokens start from rows among so many of the vocabulary's first."""


def init(
    config: PromptAdapterConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
) -> Tuned:
    """`tokens` [P, D] of unit length, and by block `key_gate` and `value_gate` [L, D].

    Values' gates start at zero, and so does the branch.
    """
    draw = from_vocab(backbone.table, backbone.word_ids[: config.init_population])
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


def materialize(
    config: PromptAdapterConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> Injection:
    """A parallel adapter of every feed-forward: down is the gated tokens, up is them again."""
    tokens, sockets = tuned["tokens"], {}
    for (*path, name), gate in flax.traverse_util.flatten_dict(dict(tuned["blocks"])).items():
        rows = jnp.einsum("pd,ld->lpd", tokens, gate)
        socket, rows = ("down", rows.swapaxes(1, 2)) if name == "key_gate" else ("up", rows)
        sockets[(*path, "parallel", "mlp", socket)] = rows
    return Injection(sockets=flax.traverse_util.unflatten_dict(sockets))


register_method(PromptAdapterConfig, init=init, materialize=materialize)
