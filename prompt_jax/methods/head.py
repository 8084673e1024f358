"""A trained head on the frozen model: by itself the baseline, beside any method its last layer.

Every method may have one (`num_labels`); its leaves stand in the tuned tree under `classifier`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import HeadConfig, InputError, MethodConfig
from prompt_jax.forward import Injection

CLASSIFIER = "classifier"
"""Where a tuned tree holds its head, whatever the method."""
STD = 0.02  # As BERT starts it.


def init(
    config: HeadConfig, backbone: Backbone, key: PRNGKeyArray, start: np.ndarray | None = None
) -> dict[str, Any]:
    """Nothing of its own: the head is beside every method.

    Raises:
      InputError: no head is asked for, and so nothing would be trained.
    """
    if config.num_labels is None:
        raise InputError("the method head trains a head only: set num_labels and a task_type")
    return {}


def materialize(config: HeadConfig, tuned: dict[str, Any], key: Any = None) -> Injection:
    """The plain frozen model."""
    return Injection()


def init_head(config: MethodConfig, backbone: Backbone, key: PRNGKeyArray) -> dict[str, Any]:
    """`out` [D, C], and before it `hidden` [D, D] where the family's heads have it.

    Raises:
      InputError: such a backbone takes no head.
    """
    if config.task_type not in backbone.task_types:
        raise InputError(
            f"backbone {backbone.name!r} takes no head for {config.task_type}; it does "
            f"{', '.join(backbone.task_types)}: leave num_labels out, and it answers in words"
        )
    shape, width = backbone.config.head(config.task_type), backbone.width
    keys = jax.random.split(key)

    def linear(key: PRNGKeyArray, outputs: int, bias: bool) -> dict[str, Array]:
        kernel = {"kernel": STD * jax.random.normal(key, (width, outputs))}
        return kernel | ({"bias": jnp.zeros(outputs)} if bias else {})

    hidden = {"hidden": linear(keys[0], width, True)} if shape.hidden else {}
    return hidden | {"out": linear(keys[1], config.num_labels or 0, shape.bias)}
