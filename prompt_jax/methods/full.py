"""Full fine-tuning: the whole tree is argument 0, and the train step is the same."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.quantised import check_whole
from prompt_jax.config import MethodConfig
from prompt_jax.forward import Injection
from prompt_jax.methods.method import register_method
from prompt_jax.trees import Frozen, Tuned


@dataclass(frozen=True, kw_only=True)
class FullConfig(MethodConfig):
    """The whole model, tuned: what all other methods are compared with."""

    kind = "full"
    rates = {"adamw": 1e-4, "adafactor": 1e-4}


def init(config: FullConfig, backbone: Backbone, key: PRNGKeyArray) -> Frozen:
    """The backbone's own parameters, float32."""
    check_whole(backbone.params, "full fine-tuning")
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), backbone.params)


def materialize(config: FullConfig, tuned: Tuned, key: PRNGKeyArray | None = None) -> Injection:
    """The tuned tree in place of the frozen one."""
    return Injection(params=tuned)


register_method(FullConfig, init=init, materialize=materialize)
