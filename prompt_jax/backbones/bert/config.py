"""The shape of an encoder-only model, and how Hugging Face's configs of each family say it."""

import dataclasses
from typing import Any

from prompt_jax.backbones.config import ConfigJson, check_fields
from prompt_jax.backbones.encoder import EncoderConfig
from prompt_jax.backbones.sockets import Head
from prompt_jax.config import InputError, choose

MODEL_TYPES = ("bert", "distilbert", "roberta", "xlm-roberta")


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
    layer_norm_epsilon: float = 1e-12
    activation: str = "gelu"
    pad_token_id: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.num_heads * self.d_kv != self.d_model:
            raise InputError(
                f"the heads of an encoder share its width, got {self.num_heads} heads of "
                f"{self.d_kv} and d_model {self.d_model}; hidden_size must be a multiple of "
                "num_attention_heads"
            )

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
        return Head(hidden=None if self.pooled else "tanh")

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
    return (BertConfig(model_type=model_type, num_layers=1),)


def from_hugging_face(values: ConfigJson, **fields: Any) -> BertConfig:
    """The config of a Hugging Face `config.json`.

    Args:
      values: of the file.
      fields: what it does not tell: those of `told_by_weights`, and those of the user.

    Raises:
      InputError: a model type, an activation or an option that is not supported.
    """
    kind = values.get("model_type", "")
    choose("model type", kind, MODEL_TYPES)
    supported = {"position_embedding_type": "absolute", "sinusoidal_pos_embds": False}
    supported |= {"is_decoder": False, "add_cross_attention": False}
    check_fields({k: v for k, v in values.items() if v is not None}, supported)
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


def to_hugging_face(config: BertConfig, dtype: str) -> ConfigJson:
    """What config.json says of a model; the reverse of `from_hugging_face`."""
    c = config
    small = c.model_type == "distilbert"
    family = {"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta"}
    name = family.get(c.model_type, "XLMRoberta")
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
    return {
        "architectures": [f"{name}ForMaskedLM" if c.word_head else f"{name}Model"],
        "model_type": c.model_type,
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.max_positions + c.first_position,
        "pad_token_id": c.pad_token_id,
        "dtype": dtype,
        **sizes,
    }
