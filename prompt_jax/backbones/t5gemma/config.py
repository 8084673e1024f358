"""The shape of a T5Gemma, 1 or 2, and how Hugging Face's config says it."""

import dataclasses
from typing import Any

from prompt_jax.backbones.causal import (
    ALWAYS,
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

BLOCKS = {"t5gemma": "gemma2", "t5gemma2": "gemma3_text"}
"""What both stacks are made of: the blocks of a decoder-only type."""
MODEL_TYPES = tuple(BLOCKS)
WITH_VISION = ("t5gemma2",)
"""Types with a vision tower, of which the text models are read."""
_BLOCKS = {
    **{"layer_norm_epsilon": 1e-6, "rope": Rope(), "fused": None, "qkv_bias": False},
    **{"out_bias": False, "mlp_bias": False, "activation": "gelu_pytorch_tanh", "gated": True},
}
_TOWER = {
    **{"model_type": "siglip_vision_model", "hidden_size": 1, "intermediate_size": 1},
    **{"num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 1, "patch_size": 1},
}
"""The smallest vision tower that Transformers builds, which has no T5Gemma 2 without one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5GemmaConfig(TwoStacksConfig):
    """The shape of a T5Gemma; the fields of a stack are its encoder's."""

    label = "T5Gemma "

    decoder: StackConfig = StackConfig(model_type="t5gemma", cross_width=StackConfig.d_model)
    shared_table: bool = False
    """Both stacks and the head have one embedding table: T5Gemma 2."""
    embedding_scale: float = 1.0
    """What rows of the table are multiplied with; 1 where stacks scale what they read, a prompt's
    rows among it: T5Gemma."""
    logit_cap: float | None = None
    """What no logit passes, by a tanh."""
    eos_token_ids: tuple[int, ...] = (1,)


PRESETS: dict[str, T5GemmaConfig] = {}
"""None: published models are ids of the hub."""


def one_layer(model_type: str) -> tuple[T5GemmaConfig, ...]:
    """A small model with every kernel of a model type."""
    blocks = _BLOCKS | ALWAYS[BLOCKS[model_type]] | {"model_type": model_type, "num_layers": 1}
    decoder = StackConfig(**blocks, **_crossing(model_type, StackConfig.d_model))
    return (T5GemmaConfig(**blocks, decoder=decoder),)


def _crossing(model_type: str, width: int) -> dict[str, Any]:
    """How a decoder reads an encoder of a width."""
    return {"merged_cross": True} if model_type == "t5gemma2" else {"cross_width": width}


def from_hugging_face(values: ConfigJson, **fields: Any) -> T5GemmaConfig:
    """As `families.Family.from_hugging_face`."""
    kind = values.get("model_type", "")
    choose("model type", kind, MODEL_TYPES)
    encoder, decoder = (values.get(stack) or {} for stack in ("encoder", "decoder"))
    second = kind == "t5gemma2"
    encoder = encoder.get("text_config") or {} if second else encoder
    encoder, decoder = filled(BLOCKS[kind], encoder), filled(BLOCKS[kind], decoder)
    # The attention of a T5Gemma 2 reads both stacks with the same kernels.
    for name in ("vocab_size", *["hidden_size"] * second):
        if decoder[name] != encoder[name]:
            raise unsupported(f"decoder.{name}", decoder[name], f"{encoder[name]}, the encoder's")
    width, family_fields = encoder["hidden_size"], {"model_type": kind}
    family_fields["vocab_size"] = encoder["vocab_size"]
    return T5GemmaConfig(
        **stack_fields(encoder) | family_fields,
        decoder=StackConfig(**stack_fields(decoder) | family_fields | _crossing(kind, width)),
        split_window=second,
        shared_table=second and fields.get("tie_embeddings", True),
        embedding_scale=width**0.5 if second else 1.0,
        logit_cap=decoder["final_logit_softcapping"],
        decoder_start_token_id=decoder.get("bos_token_id", 2),
        **special_tokens({**decoder, **filled(kind, values)}),
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

    def of(stack: StackConfig, model_type: str) -> ConfigJson:
        blocks = dataclasses.replace(stack, model_type=BLOCKS[c.model_type])
        family_fields = {"model_type": model_type, "final_logit_softcapping": c.logit_cap}
        return {**stack_values(blocks), **special, **family_fields}

    if c.model_type in WITH_VISION:
        name, text = "T5Gemma2", of(c, "t5gemma2_text")
        encoder = {"model_type": "t5gemma2_encoder", "text_config": text}
        encoder |= {"vision_config": _TOWER, "mm_tokens_per_image": 1}
        decoder = of(c.decoder, "t5gemma2_decoder")
    else:
        name, encoder = "T5Gemma", {**of(c, "t5_gemma_module"), "is_decoder": False}
        decoder = {**of(c.decoder, "t5_gemma_module"), "is_decoder": True}
        decoder["cross_attention_hidden_size"] = c.d_model
    return special | {
        "architectures": [f"{name}ForConditionalGeneration"],
        "model_type": c.model_type,
        "is_encoder_decoder": True,
        "encoder": encoder,
        "decoder": decoder,
    }
