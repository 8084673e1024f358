"""Full fine-tuning: the whole tree is argument 0, and the train step is the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.quantised import check_whole
from prompt_jax.config import FullConfig
from prompt_jax.forward import Injection


def init(
    config: FullConfig, backbone: Backbone, key: PRNGKeyArray, start: np.ndarray | None = None
) -> Any:
    """The backbone's own parameters, float32.

    Raises:
      InputError: they are held in few bits.
    """
    check_whole(backbone.params, "full fine-tuning")
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), backbone.params)


def materialize(config: FullConfig, tuned: Any, key: Any = None) -> Injection:
    """The tuned tree in place of the frozen one."""
    return Injection(params=tuned)
