"""The shape of a T5, its presets, and what Hugging Face calls its parts."""

import dataclasses
from typing import Any

from prompt_jax.backbones.config import ConfigJson, ModelConfig, end_ids, written_ends
from prompt_jax.config import choose

MODEL_TYPES = ("t5", "mt5", "umt5")


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config(ModelConfig):
    """The shape of a T5; the field names are Hugging Face's."""

    target_place = "apart"
    label = "T5 "
    model_type = "t5"

    vocab_size: int = 32128
    d_model: int = 512
    d_ff: int = 1024
    num_heads: int = 6
    num_layers: int = 8
    num_decoder_layers: int = 8
    gated: bool = True
    tie_embeddings: bool = False
    """The head is the embedding table."""
    scale_logits: bool = False
    """The decoder's output is scaled by D ** -0.5 before the head: the tied models."""
    bias_per_layer: bool = False
    """Every layer has its own relative position bias: umT5."""
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    eos_token_ids: tuple[int, ...] = (1,)
    decoder_start_token_id: int = 0


PRESETS = {
    name: T5Config(
        num_heads=heads, num_layers=layers, num_decoder_layers=layers, d_model=width, d_ff=inner
    )
    for name, heads, layers, width, inner in (
        ("t5_1_1_small", 6, 8, 512, 1024),
        ("t5_1_1_base", 12, 12, 768, 2048),
        ("t5_1_1_large", 16, 24, 1024, 2816),
        ("t5_1_1_xl", 32, 24, 2048, 5120),
        ("t5_1_1_xxl", 64, 24, 4096, 10240),
    )
}


def one_layer(model_type: str) -> tuple[T5Config, ...]:
    """Small models that between them have every kernel of the family."""
    gated = T5Config(num_layers=1, num_decoder_layers=1)
    return gated, dataclasses.replace(gated, gated=False, activation="relu")


def from_hugging_face(values: ConfigJson, **fields: Any) -> T5Config:
    """As `families.Family.from_hugging_face`."""
    choose("T5 model type", values.get("model_type", "t5"), MODEL_TYPES)
    # What Transformers takes where config.json leaves it out.
    default = "relu" if values.get("model_type", "t5") == "t5" else "gated-gelu"
    gate, _, activation = values.get("feed_forward_proj", default).rpartition("-")
    scaled = values.get("scale_decoder_outputs", values.get("tie_word_embeddings", True))
    names = {f.name for f in dataclasses.fields(T5Config)} & set(values)
    taken = {name: values[name] for name in names if values[name] is not None and name != "dropout"}
    taken.setdefault("num_decoder_layers", taken.get("num_layers", T5Config.num_layers))
    taken["eos_token_ids"] = end_ids(values) or T5Config.eos_token_ids
    return T5Config(
        **{
            **taken,
            # T5's gated GELU is the tanh approximation, which Transformers reads out of
            # "gated-gelu".
            "activation": "gelu_new" if (gate, activation) == ("gated", "gelu") else activation,
            "gated": gate == "gated",
            # mT5 never scales; umT5 and T5 scale when they were trained tied.
            "scale_logits": bool(scaled) and values.get("model_type") != "mt5",
            "bias_per_layer": values.get("model_type") == "umt5",
            **fields,
        }
    )


def to_hugging_face(config: T5Config, dtype: str) -> ConfigJson:
    """What config.json says of a T5; the reverse of `from_hugging_face`.

    Whether logits are scaled is written twice: Transformers 4 reads it from `tie_word_embeddings`,
    Transformers 5 from `scale_decoder_outputs`.
    """
    kind = "UMT5" if config.bias_per_layer else "T5"
    activation = "gelu" if config.gated and config.activation == "gelu_new" else config.activation
    return {
        "architectures": [f"{kind}ForConditionalGeneration"],
        "model_type": kind.lower(),
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_kv": config.d_kv,
        "d_ff": config.d_ff,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": f"gated-{activation}" if config.gated else activation,
        "tie_word_embeddings": config.scale_logits or (config.tie_embeddings and config.word_head),
        "scale_decoder_outputs": config.scale_logits,
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": written_ends(config.eos_token_ids),
        "decoder_start_token_id": config.decoder_start_token_id,
        "dropout_rate": config.dropout,
        "dtype": dtype,
    }
