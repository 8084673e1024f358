"""One file a method. A method is a config and two pure functions, `init` and `materialize`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import PromptTuningConfig
from prompt_jax.methods import prompt_tuning
from prompt_jax.methods.injection import Injection as Injection
from prompt_jax.methods.injection import prepend as prepend

METHODS = {PromptTuningConfig: prompt_tuning}


def init(
    config: PromptTuningConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> Any:
    """A fresh tuned tree: the only thing that is ever trained, all of it float32.

    Args:
      start: [P, D], only for `init="file"`: the rows that `init_file` holds.
    """
    return METHODS[type(config)].init(config, backbone, key, start)


def materialize(config: PromptTuningConfig, tuned: Any) -> Injection:
    """What the tuned tree puts into the frozen model; differentiable."""
    return METHODS[type(config)].materialize(config, jax.tree.map(jnp.asarray, tuned))
