"""Hugging Face's names of an encoder-only model's weights, and where a method may reach inside."""

from collections.abc import Collection, Mapping
from typing import TypeVar

from prompt_jax.backbones.bert.config import BertConfig
from prompt_jax.backbones.sockets import Attention, Axes, Layers, Norm, Sockets, projection

T = TypeVar("T")
ROOTS = ("bert", "deberta", "distilbert", "roberta")
TABLES = tuple(f"{root}.embeddings.word_embeddings.weight" for root in ROOTS)
"""What the embedding table is called, in each family."""
COPIES = ("cls.predictions.decoder.weight", "lm_head.decoder.weight", "vocab_projector.weight")
"""Second names of the table, which some checkpoints keep beside the head that fills masks."""
OTHERS = (
    *("cls.seq_relationship.", "classifier.", "pre_classifier.", "qa_outputs."),
    *("cls.predictions.decoder.bias", "lm_head.decoder.bias"),
    # DeBERTa's trained as a discriminator, and positions that it does not read.
    *("mask_predictions.", "deberta.embeddings.position_embeddings."),
)
"""Heads of other tasks, which a prompt brings itself; names of a bias; what nothing reads."""
OLD = {".gamma": ".weight", ".beta": ".bias"}
"""What the first BERT checkpoints call the leaves of a norm."""
WORDS = "lm_predictions.lm_head."
"""What DeBERTa's first checkpoints call the head that fills masks."""
BERT = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp/wi": "intermediate.dense",
    "mlp/wo": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
DISTILBERT = {
    "attention/query": "attention.q_lin",
    "attention/key": "attention.k_lin",
    "attention/value": "attention.v_lin",
    "attention/out": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "mlp/wi": "ffn.lin1",
    "mlp/wo": "ffn.lin2",
    "mlp_norm": "output_layer_norm",
}
DEBERTA = BERT | {
    "attention/query": "attention.self.query_proj",
    "attention/key": "attention.self.key_proj",
    "attention/value": "attention.self.value_proj",
}
DISTANCES = {"p2c": ("query", "pos_query_proj"), "c2p": ("key", "pos_key_proj")}
"""The kernels of distances where they have their own, by the term that reads them."""


def kernel_names(model_type: str) -> dict[str, tuple[str, ...]]:
    """What Hugging Face calls the kernels that methods tune, by their role."""
    if model_type == "distilbert":
        query, key, value, wo = "q_lin", "k_lin", "v_lin", "ffn.lin2"
    else:
        ending = "_proj" if model_type == "deberta-v2" else ""
        query, key, value = (role + ending for role in ("query", "key", "value"))
        # The outputs of attentions end in the same name as those of feed-forwards.
        wo = "output.dense"
    names = {"query": (query,), "value": (value,)}
    return names | {"scaled": (key, value, wo), "feedforward": (wo,)}


def head_names(task_type: str, model_type: str) -> dict[str, str]:
    """What Hugging Face calls the layers of a trained head."""
    if task_type == "QUESTION_ANS":
        return {"out": "qa_outputs"}
    if task_type == "SEQ_CLS" and "roberta" in model_type:
        return {"hidden": "classifier.dense", "out": "classifier.out_proj"}
    if task_type == "SEQ_CLS" and model_type == "distilbert":
        return {"hidden": "pre_classifier", "out": "classifier"}
    return {"out": "classifier"}


def told_by_weights(names: Collection[str], *, tied: bool, untied: bool = False) -> dict[str, bool]:
    """Fields of the config that the weights tell and `config.json` does not.

    Args:
      names: of the weights.
      tied: of no use here, as is `untied`; a head that is not the table is refused with the
        weights.
    """
    heads = ("cls.", "lm_head.", "vocab_")
    return {
        "pooler": any("pooler." in name for name in names),
        "word_head": any(name.startswith(heads) for name in names),
    }


def canonical(tensors: Mapping[str, T], model_type: str) -> dict[str, T]:
    """Weights under the names that we read: those of a bare model lack their root."""
    weights = {}
    for name, tensor in tensors.items():
        for old, new in OLD.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        if name.startswith(WORDS):
            place = "" if name.endswith(".bias") and name.count(".") == 2 else "transform."
            name = f"cls.predictions.{place}{name.removeprefix(WORDS)}"
        if not name.startswith(OTHERS):
            weights[name] = tensor
    if "embeddings.word_embeddings.weight" not in weights:
        return weights
    return {f"{_root(model_type)}.{name}": tensor for name, tensor in weights.items()}


def _root(model_type: str) -> str:
    return next(root for root in reversed(ROOTS) if root in model_type)


def hugging_face_names(config: BertConfig) -> dict[str, list[str]]:
    """Paths of our tree to Hugging Face's names: one, or one a layer for stacked leaves."""
    c = config
    root = _root(c.model_type)
    names = {"embedding": [f"{root}.embeddings.word_embeddings.weight"]}
    if c.distances is None:
        names["positions"] = [f"{root}.embeddings.position_embeddings.weight"]
    else:
        names["distances"] = [f"{root}.encoder.rel_embeddings.weight"]
        if c.distances.norm:
            names |= _leaves("distance_norm", [f"{root}.encoder.LayerNorm"])
    if c.num_token_types:
        names["token_types"] = [f"{root}.embeddings.token_type_embeddings.weight"]
    names |= _leaves("embedding_norm", [f"{root}.embeddings.LayerNorm"])
    stack = "transformer" if root == "distilbert" else "encoder"
    for path, module in _modules(c).items():
        layers = [f"{root}.{stack}.layer.{i}.{module}" for i in range(c.num_layers)]
        names |= _leaves(f"encoder/layers/{path}", layers)
    if c.pooler:
        names |= _leaves("pooler", ["pooler.dense" if c.distances else f"{root}.pooler.dense"])
    if c.word_head:
        dense, norm, bias = {
            "bert": (
                "cls.predictions.transform.dense",
                "cls.predictions.transform.LayerNorm",
                "cls.predictions.bias",
            ),
            "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
            "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
        }["bert" if c.distances else root]
        names |= _leaves("word_dense", [dense]) | _leaves("word_norm", [norm])
        names["word_bias"] = [bias]
    return names


def _modules(c: BertConfig) -> dict[str, str]:
    """The parts of a layer by path, and what Hugging Face calls them."""
    if c.distances is None:
        return DISTILBERT if c.model_type == "distilbert" else BERT
    apart = () if c.distances.shared else c.distances.terms
    kernels = {
        f"attention/distance_{role}": f"attention.self.{name}"
        for role, name in (DISTANCES[term] for term in apart)
    }
    return DEBERTA | kernels


def _leaves(path: str, modules: list[str]) -> dict[str, list[str]]:
    weight = "scale" if path.endswith("norm") else "kernel"
    return {
        f"{path}/{weight}": [f"{module}.weight" for module in modules],
        f"{path}/bias": [f"{module}.bias" for module in modules],
    }


def transposed(config: BertConfig, path: str) -> bool:
    """Whether a leaf is stored the other way round: matrices [out, in]."""
    return path.endswith("kernel")


def sockets(config: BertConfig) -> Sockets:
    """Every place of an encoder-only model where a method may put something."""
    c = config
    inner, mlp = (("embed", c.d_model),), (("mlp", c.d_ff),)
    outer = (("heads", c.num_heads), ("kv", c.d_kv))
    ends: dict[str, tuple[Axes, Axes]] = {
        **dict.fromkeys(("query", "key", "value"), (inner, outer)),
        **dict.fromkeys(("distance_query", "distance_key"), (inner, outer)),
        **{"out": (outer, inner), "wi": (inner, mlp), "wo": (mlp, inner)},
    }
    places = Sockets({}, {}, {}, {"embedding_norm": Norm(0, c.d_model)})
    for path, weights in hugging_face_names(c).items():
        place, _, leaf = path.rpartition("/")
        if place == "distance_norm":
            places.norms[place] = Norm(0, c.d_model)
        if not place.startswith("encoder/layers/"):
            continue
        if leaf == "scale":
            places.norms[place] = Norm(c.num_layers, c.d_model)
        elif leaf == "kernel":
            places.projections[place] = projection(*ends[place.rpartition("/")[2]], weights)
    places.attentions["encoder/layers/attention"] = Attention(
        c.num_layers, c.num_heads, c.d_kv, "encoder"
    )
    sublayers = ("attention", "mlp")
    places.blocks["encoder/layers"] = Layers(c.num_layers, c.d_model, sublayers, "encoder")
    return places
