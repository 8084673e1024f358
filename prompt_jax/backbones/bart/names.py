"""Hugging Face's names of a BART's weights, and where a method may reach inside one."""

from collections.abc import Collection, Mapping
from typing import TypeVar

from prompt_jax.backbones.bart.config import BartConfig
from prompt_jax.backbones.causal import add_places, stack_names
from prompt_jax.backbones.config import LM_HEAD
from prompt_jax.backbones.config import told_by_weights as told
from prompt_jax.backbones.sockets import Norm, Sockets

T = TypeVar("T")
ROOT = "model."
TABLES = (f"{ROOT}shared.weight",)
"""What the embedding table is called."""
COPIES = (LM_HEAD, f"{ROOT}encoder.embed_tokens.weight", f"{ROOT}decoder.embed_tokens.weight")
"""Second names of the table that some checkpoints keep; the first one is the head's."""
BIAS = "final_logits_bias"
OTHERS = ("classification_head.", "qa_outputs.", f"{ROOT}encoder.version", f"{ROOT}decoder.version")
"""Heads of other tasks, and what no BART reads."""


def kernel_names(model_type: str) -> dict[str, tuple[str, ...]]:
    """What Hugging Face calls the kernels that methods tune, by their role."""
    names = {"query": ("q_proj",), "value": ("v_proj",)}
    # Of other families it is keys and values that are scaled.
    return names | {"scaled": ("q_proj", "v_proj", "fc2"), "feedforward": ("fc2",)}


def head_names(task_type: str, model_type: str) -> dict[str, str]:
    """Layers of a head, and what PEFT calls them: BART takes none here."""
    return {}


def told_by_weights(names: Collection[str], *, tied: bool, untied: bool = False) -> dict[str, bool]:
    """Fields of the config that the weights tell and `config.json` does not, see `config`."""
    return told(names, tied=tied, untied=untied) | {"logit_bias": BIAS in names}


def canonical(tensors: Mapping[str, T], model_type: str) -> dict[str, T]:
    """Weights under the names that we read: those of a bare model lack their root.

    Some writers keep only a second name of the table.
    """
    weights = dict(tensors)
    if not any(name.startswith(ROOT) for name in weights):
        heads = (LM_HEAD, BIAS)
        weights = {name if name in heads else ROOT + name: weights[name] for name in weights}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(OTHERS)}
    copies = [weights[name] for name in COPIES[1:] if name in weights]
    return {TABLES[0]: copies[0], **weights} if copies else weights


def hugging_face_names(config: BartConfig) -> dict[str, list[str]]:
    """Paths of our tree to Hugging Face's names: one, or one a layer for stacked leaves."""
    names: dict[str, list[str]] = {"embedding": list(TABLES)}
    if not config.tie_embeddings:
        names["head/kernel"] = [LM_HEAD]
    if config.logit_bias:
        names["logit_shift"] = [BIAS]
    for stack, shape in (("encoder", config), ("decoder", config.decoder)):
        names[f"{stack}_positions"] = [f"{ROOT}{stack}.embed_positions.weight"]
        for leaf, word in (("scale", "weight"), ("bias", "bias")):
            names[f"{stack}_norm/{leaf}"] = [f"{ROOT}{stack}.layernorm_embedding.{word}"]
        names |= stack_names(shape, stack, f"{ROOT}{stack}.layers", "")
    return names


def transposed(config: BartConfig, path: str) -> bool:
    """Whether a leaf is stored the other way round: matrices [out, in]."""
    return path.endswith("kernel")


def sockets(config: BartConfig) -> Sockets:
    """Every place of a BART where a method may put something."""
    places, names = Sockets({}, {}, {}, {}), hugging_face_names(config)
    for stack, shape in (("encoder", config), ("decoder", config.decoder)):
        places.norms[f"{stack}_norm"] = Norm(0, shape.d_model)
        add_places(places, shape, stack, names)
    return places
