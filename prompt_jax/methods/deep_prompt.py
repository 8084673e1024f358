"""Per-layer prompts: the states of the virtual tokens are replaced, or added to, in every layer."""

from dataclasses import dataclass
from typing import Literal, get_args

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig, choose
from prompt_jax.forward import Injection
from prompt_jax.methods.method import register_method
from prompt_jax.methods.virtual_tokens import InputPrompt, start_rows
from prompt_jax.trees import Tuned

How = Literal["replace", "add"]


@dataclass(frozen=True, kw_only=True)
class DeepPromptConfig(InputPrompt):
    """Virtual tokens of its own for every encoder layer (per-layer prompts of Google's library)."""

    kind = "deep_prompt"

    how: How = "replace"
    """Whether a layer's rows replace the states of the virtual tokens or are added to them."""

    def __post_init__(self):
        super().__post_init__()
        choose("how", self.how, get_args(How))
        if self.place != "prefix":
            raise InputError(
                f'per-layer prompts are the first states, and placement is "{self.placement}"; '
                'use placement="prefix"'
            )

    def in_chats(self) -> MethodConfig:
        return self


def init(
    config: DeepPromptConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> Tuned:
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


def materialize(
    config: DeepPromptConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> Injection:
    """The input's prompt, and every layer's own."""
    prompt = tuned["prompt"]
    stacks = {name: tree for name, tree in tuned.items() if name != "prompt"}

    def socket(layers: Array) -> Tuned:
        if config.how == "replace":
            # The first layer gets the input's own rows, which so count and have a gradient.
            layers = jnp.concatenate([prompt[None], layers])
        return {"prompt": {config.how: layers}}

    return Injection(prompt, sockets=jax.tree.map(socket, stacks))


register_method(DeepPromptConfig, init=init, materialize=materialize)
