"""The shape of an encoder-only model, and how Hugging Face's configs of each family say it."""

import dataclasses
from typing import Any, NamedTuple

from prompt_jax.backbones.config import ConfigJson, check_fields, check_shared_width, unsupported
from prompt_jax.backbones.encoder import EncoderConfig
from prompt_jax.backbones.sockets import Head
from prompt_jax.config import choose

MODEL_TYPES = ("bert", "deberta-v2", "distilbert", "roberta", "xlm-roberta")
TERMS = ("c2p", "p2c")


class Distances(NamedTuple):
    """How attention reads the distance from a query to a key: DeBERTa's, instead of positions."""

    reach: int = 512
    """Distances from here on are read alike."""
    buckets: int = 256
    """To either side: near distances have one each, far ones share some; 0 has one for each."""
    terms: tuple[str, ...] = TERMS
    """Content to position (`c2p`): a query meets the distance; `p2c`: a key does."""
    shared: bool = True
    """Distances go through the kernels of queries and keys, and not through their own."""
    norm: bool = True
    """Their embeddings are normed."""

    @property
    def span(self) -> int:
        """Distances to either side that have an embedding."""
        return self.buckets or self.reach


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig(EncoderConfig):
    """The shape of an encoder-only model; what is named as in T5Config means the same."""

    model_type: str = "bert"
    """What Hugging Face calls the family, and so its weights."""
    vocab_size: int = 30522
    max_positions: int = 512
    """Most virtual and text tokens together."""
    first_position: int = 0
    """Row of the position table that the first token takes: RoBERTa leaves the first ones unused,
    which `max_positions` does not count."""
    num_token_types: int = 2
    """Rows of the segment table: the first is of every text, the second of what stands behind its
    separator. DistilBERT has none, RoBERTa a single one."""
    distances: Distances | None = None
    """None adds positions to the input."""
    layer_norm_epsilon: float = 1e-12
    activation: str = "gelu"
    pooler_activation: str = "tanh"
    pad_token_id: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_shared_width(self)

    @property
    def word_activation(self) -> str:
        """The activation of the head that fills masks, which RoBERTa fixes."""
        return "gelu" if "roberta" in self.model_type else self.activation

    def head(self, task_type: str) -> Head:
        """What a head for a task is made of, as the family has it."""
        if task_type != "SEQ_CLS":
            return Head()
        if self.model_type == "distilbert":
            return Head(hidden="relu")
        return Head(hidden=None if self.pooled else self.pooler_activation)

    @property
    def pooled(self) -> bool:
        """Whether a head reads the pooler: RoBERTa's heads have a layer of their own instead."""
        return self.pooler and "roberta" not in self.model_type


PRESETS: dict[str, BertConfig] = {}
"""None: "bert-base-uncased" and the like are ids of the hub."""
_DISTILBERT = {
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "hidden_act": "activation",
}
"""DistilBERT's words for what the others call as written here."""


def one_layer(model_type: str) -> tuple[BertConfig, ...]:
    """Small models that between them have every kernel of a family."""
    distances = Distances(shared=False) if model_type == "deberta-v2" else None
    return (BertConfig(model_type=model_type, num_layers=1, distances=distances),)


def from_hugging_face(values: ConfigJson, **fields: Any) -> BertConfig:
    """As `families.Family.from_hugging_face`."""
    kind = values.get("model_type", "")
    choose("model type", kind, MODEL_TYPES)
    supported = {"position_embedding_type": "absolute", "sinusoidal_pos_embds": False}
    supported |= {"is_decoder": False, "add_cross_attention": False}
    check_fields({k: v for k, v in values.items() if v is not None}, supported)
    if kind == "deberta-v2":
        values = _DEBERTA | {name: value for name, value in values.items() if value is not None}
        activation = values["pooler_hidden_act"]
        fields = {"distances": _distances(values), "pooler_activation": activation} | fields
    small = kind == "distilbert"
    sizes = {name: values[short if small else name] for name, short in _DISTILBERT.items()}
    pad = values.get("pad_token_id")
    pad = 0 if pad is None else pad
    # RoBERTa numbers positions from the one behind its padding token on.
    first = pad + 1 if "roberta" in kind else 0
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    return BertConfig(
        model_type=kind,
        vocab_size=values["vocab_size"],
        d_model=width,
        d_kv=width // heads,
        d_ff=sizes["intermediate_size"],
        num_heads=heads,
        num_layers=sizes["num_hidden_layers"],
        max_positions=values["max_position_embeddings"] - first,
        first_position=first,
        num_token_types=0 if small else values.get("type_vocab_size", 2),
        # DistilBERT's norms have 1e-12 in Transformers, and its config.json has no field for it.
        layer_norm_epsilon=1e-12 if small else values.get("layer_norm_eps", 1e-12),
        activation=sizes["hidden_act"],
        pad_token_id=pad,
        **fields,
    )


_DEBERTA = {
    **{
        "hidden_act": "gelu",
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "pooler_hidden_act": "gelu",
    },
    **{"relative_attention": False, "position_biased_input": True, "share_att_key": False},
    **{"position_buckets": -1, "max_relative_positions": -1, "norm_rel_ebd": "none"},
    **{"pos_att_type": (), "conv_kernel_size": 0},
}
"""What DeBERTa's config.json may leave out."""


def _distances(values: ConfigJson) -> Distances:
    """How a DeBERTa reads distances, of a config.json with nothing left out."""
    width = values["hidden_size"]
    supported: dict[str, Any] = {
        "relative_attention": True,
        "position_biased_input": False,
        "conv_kernel_size": 0,
    }
    supported |= dict.fromkeys(("embedding_size", "pooler_hidden_size"), width)
    supported |= {"attention_head_size": width // values["num_attention_heads"]}
    check_fields(values, supported)
    terms, norms = (
        [word.strip() for word in (words.lower().split("|") if isinstance(words, str) else words)]
        for words in (values["pos_att_type"], values["norm_rel_ebd"])
    )
    if not set(terms) <= set(TERMS):
        raise unsupported("pos_att_type", terms, f"some of {', '.join(TERMS)}")
    reach = values["max_relative_positions"]
    return Distances(
        reach=reach if reach > 0 else values["max_position_embeddings"],
        buckets=max(values["position_buckets"], 0),
        terms=tuple(term for term in TERMS if term in terms),
        shared=values["share_att_key"],
        norm="layer_norm" in norms,
    )


def to_hugging_face(config: BertConfig, dtype: str) -> ConfigJson:
    """What config.json says of a model; the reverse of `from_hugging_face`."""
    c = config
    small = c.model_type == "distilbert"
    name = {
        **{"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta"},
        **{"xlm-roberta": "XLMRoberta", "deberta-v2": "DebertaV2"},
    }[c.model_type]
    sizes = {
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_attention_heads": c.num_heads,
        "num_hidden_layers": c.num_layers,
        "hidden_act": c.activation,
    }
    if small:
        sizes = {_DISTILBERT[name]: value for name, value in sizes.items()}
    else:
        sizes |= {"type_vocab_size": c.num_token_types, "layer_norm_eps": c.layer_norm_epsilon}
    if c.distances:
        sizes |= {
            **{"relative_attention": True, "position_biased_input": False},
            "max_relative_positions": c.distances.reach,
            "position_buckets": c.distances.buckets or -1,
            "pos_att_type": list(c.distances.terms),
            "share_att_key": c.distances.shared,
            "norm_rel_ebd": "layer_norm" if c.distances.norm else "none",
            "pooler_hidden_act": c.pooler_activation,
        }
    return {
        "architectures": [f"{name}ForMaskedLM" if c.word_head else f"{name}Model"],
        "model_type": c.model_type,
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.max_positions + c.first_position,
        "pad_token_id": c.pad_token_id,
        "dtype": dtype,
        **sizes,
    }
