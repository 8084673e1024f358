"""The shape of a BART, and how Hugging Face's config says it."""

import dataclasses
from typing import Any

from prompt_jax.backbones.causal import StackConfig
from prompt_jax.backbones.causal.config import Fused
from prompt_jax.backbones.config import (
    ConfigJson,
    check_fields,
    check_shared_width,
    end_ids,
    unsupported,
    written_ends,
)
from prompt_jax.backbones.two_stacks import TwoStacksConfig
from prompt_jax.config import choose

MODEL_TYPES = ("bart",)
UNUSED = 2
"""Rows at the front of both tables of positions that no token takes."""
_BLOCKS = {
    **{"model_type": "bart", "norm_places": ("after",), "fused": None, "activation": "gelu"},
}
_SUPPORTED = {
    **{"normalize_before": False, "add_final_layer_norm": False, "normalize_embedding": True},
    **{"static_position_embeddings": False, "add_bias_logits": False},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BartConfig(TwoStacksConfig):
    """The shape of a BART; the fields of a stack are its encoder's."""

    label = "BART "

    model_type: str = "bart"
    vocab_size: int = 50265
    max_positions: int | None = 1024
    """Most virtual and text tokens together, and most of an answer."""
    norm_places: tuple[str, ...] = ("after",)
    fused: Fused | None = None
    activation: str = "gelu"
    decoder: StackConfig = StackConfig(**_BLOCKS, cross_width=StackConfig.d_model)
    embedding_scale: float = 1.0
    """What rows of the embedding table are multiplied with."""
    logit_bias: bool = True
    """The weights have a number for every word that is added to its logit."""
    pad_token_id: int | None = 1
    eos_token_ids: tuple[int, ...] = (2,)
    first_token_id: int | None = None
    """What every answer begins with: a decoder reads it behind its start token, and neither targets
    nor answers have it."""
    final_token_id: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check_shared_width(self)
        check_shared_width(self.decoder)

    @property
    def start_tokens(self) -> tuple[int, ...]:
        """What the decoder has read before the first token of a target."""
        first = () if self.first_token_id is None else (self.first_token_id,)
        return (self.decoder_start_token_id, *first)


PRESETS: dict[str, BartConfig] = {}
"""None: "facebook/bart-base" and the like are ids of the hub."""


def one_layer(model_type: str) -> tuple[BartConfig, ...]:
    """A small model with every kernel of the family."""
    decoder = StackConfig(**_BLOCKS, num_layers=1, cross_width=StackConfig.d_model)
    return (BartConfig(num_layers=1, decoder=decoder),)


def from_hugging_face(values: ConfigJson, **fields: Any) -> BartConfig:
    """As `families.Family.from_hugging_face`."""
    choose("model type", values.get("model_type", ""), MODEL_TYPES)
    check_fields(values, _SUPPORTED)
    width = values.get("d_model", 1024)
    encoder, decoder = (_stack_fields(values, name, width) for name in ("encoder", "decoder"))
    ends = end_ids(values) or BartConfig.eos_token_ids
    return BartConfig(
        **encoder,
        decoder=StackConfig(**_BLOCKS | decoder, cross_width=width),
        embedding_scale=width**0.5 if values.get("scale_embedding") else 1.0,
        pad_token_id=values.get("pad_token_id", 1),
        eos_token_ids=ends,
        decoder_start_token_id=values.get("decoder_start_token_id", 2),
        first_token_id=values.get("forced_bos_token_id"),
        final_token_id=_final(values.get("forced_eos_token_id", 2)),
        **fields,
    )


def _stack_fields(values: ConfigJson, name: str, width: int) -> dict[str, Any]:
    heads = values.get(f"{name}_attention_heads", 16)
    return {
        "vocab_size": values.get("vocab_size", BartConfig.vocab_size),
        "d_model": width,
        "d_kv": width // heads,
        "d_ff": values.get(f"{name}_ffn_dim", 4096),
        "num_heads": heads,
        "num_kv_heads": heads,
        "num_layers": values.get(f"{name}_layers", 12),
        "max_positions": values.get("max_position_embeddings", 1024),
        "activation": values.get("activation_function", "gelu"),
    }


def _final(token: int | list[int] | None) -> int | None:
    if isinstance(token, list):
        if len(token) > 1:
            raise unsupported("forced_eos_token_id", token, "one token")
        return next(iter(token), None)
    return token


def to_hugging_face(config: BartConfig, dtype: str) -> ConfigJson:
    """What config.json says of a BART; the reverse of `from_hugging_face`."""
    c = config
    values = {
        "architectures": ["BartForConditionalGeneration" if c.word_head else "BartModel"],
        "model_type": c.model_type,
        "is_encoder_decoder": True,
        "vocab_size": c.vocab_size,
        "d_model": c.d_model,
        "max_position_embeddings": c.max_positions,
        "activation_function": c.activation,
        "scale_embedding": c.embedding_scale != 1,
        "tie_word_embeddings": c.tie_embeddings and c.word_head,
        "pad_token_id": c.pad_token_id,
        "eos_token_id": written_ends(c.eos_token_ids),
        "decoder_start_token_id": c.decoder_start_token_id,
        "forced_bos_token_id": c.first_token_id,
        "forced_eos_token_id": c.final_token_id,
        "dtype": dtype,
    }
    for name, stack in (("encoder", c), ("decoder", c.decoder)):
        values |= {
            f"{name}_layers": stack.num_layers,
            f"{name}_ffn_dim": stack.d_ff,
            f"{name}_attention_heads": stack.num_heads,
        }
    return values
