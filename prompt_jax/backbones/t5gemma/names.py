"""Hugging Face's names of a T5Gemma's weights, and where a method may reach inside one."""

import functools
import re
from collections.abc import Mapping
from typing import TypeVar

from prompt_jax.backbones.causal import add_places, stack_names
from prompt_jax.backbones.config import told_by_weights as told
from prompt_jax.backbones.sockets import Sockets
from prompt_jax.backbones.t5gemma.config import WITH_VISION, T5GemmaConfig

T = TypeVar("T")
ROOT = "model."
HEAD = "lm_head.out_proj.weight"
TABLES = tuple(f"{ROOT}{stack}.embed_tokens.weight" for stack in ("encoder.text_model", "decoder"))
"""What the embedding table of the head is called: the encoder's in T5Gemma 2, or the decoder's."""
COPIES = (HEAD, TABLES[1])
"""Second names of the table, which some checkpoints of tied models keep."""
VISION = re.compile(r"vision_tower\.|multi_modal_projector\.|eoi_embedding$")
"""Of what reads images."""
TEXT = re.compile(r"(?<=^model\.encoder\.)(?=embed_tokens\.|layers\.|norm\.)")
"""Where files leave out the text model, which modules are named by."""

told_by_weights = functools.partial(told, head=HEAD)


def head_names(task_type: str, model_type: str) -> dict[str, str]:
    """Layers of a head, and what PEFT calls them: T5Gemma takes none."""
    return {}


def canonical(tensors: Mapping[str, T], model_type: str) -> dict[str, T]:
    """Weights under the names that we read: those of a bare model lack their root.

    Of a T5Gemma 2, those that read texts.
    """
    bare = not any(name.startswith(ROOT) for name in tensors)
    weights = {
        ROOT + name if bare and name != HEAD else name: tensor
        for name, tensor in tensors.items()
        if not VISION.search(name)
    }
    if model_type not in WITH_VISION:
        return weights
    weights = {TEXT.sub("text_model.", name): tensor for name, tensor in weights.items()}
    # Some writers keep only a second name of the table.
    copies = [weights[name] for name in COPIES[1:] if name in weights]
    return {TABLES[0]: copies[0], **weights} if copies else weights


def _stacks(config: T5GemmaConfig) -> dict[str, str]:
    """What Hugging Face calls either stack."""
    text = ".text_model" if config.model_type in WITH_VISION else ""
    return {"encoder": f"{ROOT}encoder{text}", "decoder": f"{ROOT}decoder"}


def hugging_face_names(config: T5GemmaConfig) -> dict[str, list[str]]:
    """Paths of our tree to Hugging Face's names: one, or one a layer for stacked leaves."""
    stacks = _stacks(config)
    names = {"embedding": [f"{stacks['encoder']}.embed_tokens.weight"]}
    if not config.shared_table:
        names["decoder_embedding"] = [f"{stacks['decoder']}.embed_tokens.weight"]
    if not config.tie_embeddings:
        names["head/kernel"] = [HEAD]
    for stack, shape in (("encoder", config), ("decoder", config.decoder)):
        names |= stack_names(shape, stack, f"{stacks[stack]}.layers", f"{stacks[stack]}.norm")
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
