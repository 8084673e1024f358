"""Hugging Face's names of a ModernBERT's weights, and where a method may reach inside one."""

from collections.abc import Collection, Mapping
from typing import TypeVar

from prompt_jax.backbones.causal import add_places, stack_names
from prompt_jax.backbones.modernbert.config import ModernBertConfig
from prompt_jax.backbones.sockets import Norm, Sockets

T = TypeVar("T")
ROOT = "model."
TABLES = (f"{ROOT}embeddings.tok_embeddings.weight",)
"""What the embedding table is called."""
COPIES = ("decoder.weight",)
"""A second name of the table, which some checkpoints keep beside the head that fills masks."""
BIAS = "decoder.bias"
OTHERS = ("classifier.",)
"""Heads of other tasks, which a prompt brings itself."""


def kernel_names(model_type: str) -> dict[str, tuple[str, ...]]:
    """What Hugging Face calls the kernels that methods tune, by their role."""
    names = {"query": ("Wqkv",), "value": ("Wqkv",)}
    return names | {"scaled": ("Wqkv", "mlp.Wo"), "feedforward": ("mlp.Wo",)}


def head_names(task_type: str, model_type: str) -> dict[str, str]:
    """What Hugging Face calls the layers of a trained head."""
    return {"out": "classifier"}


def told_by_weights(names: Collection[str], *, tied: bool, untied: bool = False) -> dict[str, bool]:
    """Fields of the config that the weights tell and `config.json` does not.

    Args:
      names: of the weights.
      tied: of no use here, as is `untied`; a head that is not the table is refused with the
        weights.
    """
    return {
        "pooler": any(name.startswith("head.") for name in names),
        "word_head": BIAS in names,
    }


def canonical(tensors: Mapping[str, T], model_type: str) -> dict[str, T]:
    """Weights under the names that we read: those of a bare model lack their root."""
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(OTHERS)}
    root = "" if TABLES[0].removeprefix(ROOT) not in weights else ROOT
    return {root + name: tensor for name, tensor in weights.items()}


def hugging_face_names(config: ModernBertConfig) -> dict[str, list[str]]:
    """Paths of our tree to Hugging Face's names: one, or one a layer for stacked leaves."""
    c = config
    first = _norm_leaves(c, "embedding_norm", f"{ROOT}embeddings.norm")
    names = stack_names(c, "encoder", f"{ROOT}layers", f"{ROOT}final_norm")
    for path, (name,) in first.items():
        # The first layer has no such norm, and stacked leaves have a row for it, which nothing
        # reads: it is that of the norm before. This comes first, so that its own leaf is written.
        names[path.replace("embedding_norm", "encoder/layers/attention_norm")][0] = name
    names |= {"embedding": [TABLES[0]]} | first
    if c.pooler:
        names["pooler/kernel"] = ["head.dense.weight"]
        if c.pooler_bias:
            names["pooler/bias"] = ["head.dense.bias"]
        names |= _norm_leaves(c, "pooler_norm", "head.norm")
    if c.word_head:
        names["word_bias"] = [BIAS]
    return names


def _norm_leaves(config: ModernBertConfig, path: str, module: str) -> dict[str, list[str]]:
    names = {f"{path}/scale": [f"{module}.weight"]}
    return names | ({f"{path}/bias": [f"{module}.bias"]} if config.norm_bias else {})


def transposed(config: ModernBertConfig, path: str) -> bool:
    """Whether a leaf is stored the other way round: matrices [out, in]."""
    return path.endswith("kernel")


def sockets(config: ModernBertConfig) -> Sockets:
    """Every place of a ModernBERT where a method may put something."""
    places = Sockets({}, {}, {}, {"embedding_norm": Norm(0, config.d_model)})
    add_places(places, config, "encoder", hugging_face_names(config))
    return places
