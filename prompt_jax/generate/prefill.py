"""A prompt that a decoder has read already: its keys and values in place of its embeddings."""

import flax.traverse_util
import jax

from prompt_jax.backbones import Backbone
from prompt_jax.forward import Injection


def read_once(backbone: Backbone, injection: Injection | None) -> Injection | None:
    """The same prompt as keys and values that the model has made of it, where it may be had so.

    A decoder reads a prompt before any text, and the same for all texts: read once, it costs no
    later request a position. Whatever is not a plain prompt before the text comes back as it is,
    and so does one of a model that reads input and prompt in both directions.
    """
    if injection is None or injection.prompt is None or injection.prompt.ndim != 2:
        return injection
    rest = injection._replace(prompt=None)
    # Leaves of `rest` are a mask, a shift, a head or sockets: more than a prefix holds.
    alone = injection.placement == "prefix" and not jax.tree.leaves(rest)
    if not alone or backbone.target_place != "behind" or backbone.config.bidirectional_input:
        return injection
    read = backbone.keys_and_values(injection.prompt)
    sockets = {f"{path}/prefix": key_and_value for path, key_and_value in read.items()}
    return Injection(sockets=flax.traverse_util.unflatten_dict(sockets, sep="/"))
