"""A trained head and nothing else: what every method with `num_labels` is compared with."""

from dataclasses import dataclass

from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.forward import Injection
from prompt_jax.methods.method import register_method
from prompt_jax.trees import Tuned


@dataclass(frozen=True, kw_only=True)
class HeadConfig(MethodConfig):
    """A trained head and nothing else: what every method with `num_labels` is compared with."""

    kind = "head"


def init(config: HeadConfig, backbone: Backbone, key: PRNGKeyArray) -> Tuned:
    """An empty tree: the head is beside every method, see `prompt_jax.methods.classifier`."""
    if config.num_labels is None:
        raise InputError(
            "the method head trains a head and nothing else, and none is set: give num_labels and "
            "task_type SEQ_CLS or TOKEN_CLS on an encoder or a decoder; T5 and other "
            "encoder-decoders take no head"
        )
    return {}


def materialize(config: HeadConfig, tuned: Tuned, key: PRNGKeyArray | None = None) -> Injection:
    """The plain frozen model."""
    return Injection()


register_method(HeadConfig, init=init, materialize=materialize)
