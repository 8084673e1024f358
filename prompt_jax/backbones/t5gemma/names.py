"""Hugging Face's names of a T5Gemma's weights, and where a method may reach inside one."""

import functools
from collections.abc import Mapping
from typing import TypeVar

from prompt_jax.backbones.causal import add_places, stack_names
from prompt_jax.backbones.config import told_by_weights as told
from prompt_jax.backbones.sockets import Sockets
from prompt_jax.backbones.t5gemma.config import T5GemmaConfig

T = TypeVar("T")
HEAD = "lm_head.out_proj.weight"
TABLES = ("model.decoder.embed_tokens.weight",)
"""What the embedding table of the head is called: the decoder's."""
COPIES = (HEAD,)
"""A second name of the table, which some checkpoints of tied models keep."""

told_by_weights = functools.partial(told, head=HEAD)


def head_names(task_type: str, model_type: str) -> dict[str, str]:
    """Layers of a head, and what PEFT calls them: T5Gemma takes none."""
    return {}


def canonical(tensors: Mapping[str, T], model_type: str) -> dict[str, T]:
    """Weights under the names that we read: those of a bare model lack their root."""
    root = "" if TABLES[0] in tensors else "model."
    return {name if name == HEAD else root + name: tensor for name, tensor in tensors.items()}


def hugging_face_names(config: T5GemmaConfig) -> dict[str, list[str]]:
    """Paths of our tree to Hugging Face's names: one, or one a layer for stacked leaves."""
    names = {
        "embedding": ["model.encoder.embed_tokens.weight"],
        "decoder_embedding": list(TABLES),
    }
    if not config.tie_embeddings:
        names["head/kernel"] = [HEAD]
    for stack, shape in (("encoder", config), ("decoder", config.decoder)):
        names |= stack_names(shape, stack, f"model.{stack}.layers", f"model.{stack}.norm")
    return names


def transposed(config: T5GemmaConfig, path: str) -> bool:
    """Whether a leaf is stored the other way round: matrices [out, in]."""
    return path.endswith("kernel")


def sockets(config: T5GemmaConfig) -> Sockets:
    """Every place of a T5Gemma where a method may put something."""
    places, names = Sockets({}, {}, {}, {}), hugging_face_names(config)
    for stack, shape in (("encoder", config), ("decoder", config.decoder)):
        add_places(places, shape, stack, names)
    return places
