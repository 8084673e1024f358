"""A trained head beside any method: the last layer on the frozen model.

Every method may have one (`num_labels`); its leaves stand in the tuned tree under `classifier`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.trees import Tuned

CLASSIFIER = "classifier"
"""Where a tuned tree holds its head, whatever the method."""
STD = 0.02  # As BERT starts it.


def init_head(config: MethodConfig, backbone: Backbone, key: PRNGKeyArray) -> Tuned:
    """`out` [D, C], and before it `hidden` [D, D] where the family's heads have it."""
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
