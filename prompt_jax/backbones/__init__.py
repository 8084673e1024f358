"""Frozen models: embeddings in, logits out, no word about prompts.

A family is a module with `T5`-like functions: a Flax module with `embed` and `__call__`, a config,
`from_hugging_face`, `init_params`. `BACKBONES` maps Hugging Face's `model_type` to its family.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax.backbones import t5
from prompt_jax.backbones.sockets import Sockets

BACKBONES = {"t5": t5, "mt5": t5, "umt5": t5}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen model with its weights and its tokenizer."""

    name: str
    """What `load_backbone` was asked for; written into saved prompts."""
    config: t5.T5Config
    params: Any
    """The frozen tree; always passed as an argument, never closed over."""
    tokenizer: Any = None
    """A Hugging Face tokenizer, or None for a model without one."""
    fingerprint: str = ""
    """sha256 of the source of the weights, whatever dtype they are held in."""

    @property
    def module(self) -> nn.Module:
        """The Flax module that `params` belong to."""
        return t5.T5(self.config)

    @property
    def width(self) -> int:
        """D, the width that a prompt must have."""
        return self.config.d_model

    @property
    def sockets(self) -> Sockets:
        """Every place where a method may reach inside the model."""
        return t5.sockets(self.config)

    def unstacked(self) -> Any:
        """`params` as a training step reads them fastest: layers apart where none are scanned.

        That is a copy. Everything that takes `params` takes it too, but for decoding.
        """
        return self.params if self.config.scan else t5.unstack(self.params)

    def keys_and_values(self, tokens: Any) -> dict[str, Any]:
        """What every attention makes of a text [T]: `key` and `value` [L, T, H, K], by path."""
        return t5.keys_and_values(self.config, self.params, jnp.asarray(tokens))

    def embed(self, tokens: Any) -> Any:
        """Embeddings of tokens, [..., T] to [..., T, D]."""
        return self.module.apply({"params": self.params}, jnp.asarray(tokens), method="embed")
