"""The shape of a T5Gemma, and how Hugging Face's config says it."""

import dataclasses
from typing import Any

from prompt_jax.backbones.causal import (
    Rope,
    StackConfig,
    filled,
    special_tokens,
    stack_fields,
    stack_values,
)
from prompt_jax.backbones.config import ConfigJson, unsupported, written_ends
from prompt_jax.backbones.two_stacks import TwoStacksConfig
from prompt_jax.config import choose

MODEL_TYPES = ("t5gemma",)
_BLOCKS = {
    **{"model_type": "t5gemma", "norm": "rms_from_one", "norm_places": ("before", "behind")},
    **{"layer_norm_epsilon": 1e-6, "rope": Rope(), "fused": None, "qkv_bias": False},
    **{"out_bias": False, "mlp_bias": False, "activation": "gelu_pytorch_tanh", "gated": True},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5GemmaConfig(TwoStacksConfig):
    """The shape of a T5Gemma; the fields of a stack are its encoder's."""

    label = "T5Gemma "

    decoder: StackConfig = StackConfig(**_BLOCKS, cross_width=StackConfig.d_model)
    logit_cap: float | None = None
    """What no logit passes, by a tanh."""
    eos_token_ids: tuple[int, ...] = (1,)


PRESETS: dict[str, T5GemmaConfig] = {}
"""None: published models are ids of the hub."""


def one_layer(model_type: str) -> tuple[T5GemmaConfig, ...]:
    """A small model with every kernel of the family."""
    decoder = StackConfig(**_BLOCKS, num_layers=1, cross_width=StackConfig.d_model)
    return (T5GemmaConfig(**_BLOCKS, num_layers=1, decoder=decoder),)


def from_hugging_face(values: ConfigJson, **fields: Any) -> T5GemmaConfig:
    """The config of a Hugging Face `config.json`.

    Args:
      values: of the file.
      fields: what it does not tell: those of `told_by_weights`, and those of the user.

    Raises:
      InputError: a model type, an activation or an option that is not supported.
    """
    choose("model type", values.get("model_type", ""), MODEL_TYPES)
    encoder, decoder = (
        filled("gemma2", values.get(stack) or {}) for stack in ("encoder", "decoder")
    )
    words = encoder["vocab_size"]
    if decoder["vocab_size"] != words:
        raise unsupported("decoder.vocab_size", decoder["vocab_size"], f"{words}, the encoder's")
    family_fields = {"model_type": "t5gemma", "vocab_size": words}
    return T5GemmaConfig(
        **stack_fields(encoder) | family_fields,
        decoder=StackConfig(
            **stack_fields(decoder) | family_fields, cross_width=encoder["hidden_size"]
        ),
        logit_cap=decoder["final_logit_softcapping"],
        decoder_start_token_id=decoder.get("bos_token_id", 2),
        **special_tokens({**decoder, **filled("t5gemma", values)}),
        **fields,
    )


def to_hugging_face(config: T5GemmaConfig, dtype: str) -> ConfigJson:
    """What config.json says of a T5Gemma; the reverse of `from_hugging_face`."""
    c = config
    special = {
        "vocab_size": c.vocab_size,
        "pad_token_id": c.pad_token_id,
        "eos_token_id": written_ends(c.eos_token_ids),
        "bos_token_id": c.decoder_start_token_id,
        "tie_word_embeddings": c.tie_embeddings and c.word_head,
        "dtype": dtype,
    }

    def of(stack: StackConfig) -> ConfigJson:
        family_fields = {"model_type": "t5_gemma_module", "final_logit_softcapping": c.logit_cap}
        return (
            stack_values(dataclasses.replace(stack, model_type="gemma2")) | special | family_fields
        )

    return special | {
        "architectures": ["T5GemmaForConditionalGeneration"],
        "model_type": "t5gemma",
        "is_encoder_decoder": True,
        "encoder": {**of(c), "is_decoder": False},
        "decoder": {**of(c.decoder), "is_decoder": True, "cross_attention_hidden_size": c.d_model},
    }
