"""The shape of a ModernBERT, and how Hugging Face's config says it."""

import dataclasses
from typing import Any

from prompt_jax.backbones.causal import FULL, SLIDING, Rope, StackConfig, read_rope, write_rope
from prompt_jax.backbones.config import ConfigJson, check_fields, check_shared_width, unsupported
from prompt_jax.backbones.encoder import EncoderConfig
from prompt_jax.backbones.layers import ACTIVATIONS
from prompt_jax.backbones.sockets import Head
from prompt_jax.config import choose

MODEL_TYPES = ("modernbert",)
POOLINGS = ("cls", "mean")
_ROPES = {
    FULL: (Rope(theta=160000.0), "global_rope_theta"),
    SLIDING: (Rope(theta=10000.0), "local_rope_theta"),
}
"""How positions turn in each kind of layer, and the field that said so before Transformers 5."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModernBertConfig(EncoderConfig, StackConfig):
    """The shape of a ModernBERT: a stack without a causal mask, and its heads."""

    label = "ModernBERT "

    model_type: str = "modernbert"
    vocab_size: int = 50368
    max_positions: int = 8192
    norm_bias: bool = False
    layer_norm_epsilon: float = 1e-5
    first_norm: bool = False
    rope: Rope | None = _ROPES[FULL][0]
    sliding_rope: Rope | None = _ROPES[SLIDING][0]
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    activation: str = "gelu"
    gated: bool = True
    fused_mlp: bool = True
    pooler: bool = True
    """The weights have the layer through which all heads read, with its activation and norm."""
    pooler_bias: bool = False
    pooler_activation: str = "gelu"
    pooling: str = "cls"
    """What a head of SEQ_CLS reads: the first token (`cls`), or the `mean` of all."""
    pad_token_id: int | None = 50283
    mask_token_id: int = 50284

    def __post_init__(self):
        super().__post_init__()
        check_shared_width(self)
        choose("classifier_pooling", self.pooling, POOLINGS)
        choose("classifier_activation", self.pooler_activation, ACTIVATIONS)

    def head(self, task_type: str) -> Head:
        """What a head for a task is made of: without a pooler it has a layer of its own."""
        return Head(hidden=None if self.pooler else self.pooler_activation)


PRESETS: dict[str, ModernBertConfig] = {}
"""None: "answerdotai/ModernBERT-base" and the like are ids of the hub."""


def one_layer(model_type: str) -> tuple[ModernBertConfig, ...]:
    """A small model with every kernel of the family."""
    return (ModernBertConfig(num_layers=1),)


def from_hugging_face(values: ConfigJson, **fields: Any) -> ModernBertConfig:
    """As `families.Family.from_hugging_face`."""
    choose("model type", values.get("model_type", ""), MODEL_TYPES)
    check_fields(values, {"decoder_bias": True})
    width, heads = values.get("hidden_size", 768), values.get("num_attention_heads", 12)
    rope, sliding_rope = (_rope(values, kind) for kind in _ROPES)
    bias = values.get("attention_bias", False)
    return ModernBertConfig(
        vocab_size=values.get("vocab_size", ModernBertConfig.vocab_size),
        d_model=width,
        d_kv=width // heads,
        d_ff=values.get("intermediate_size", 1152),
        num_heads=heads,
        num_kv_heads=heads,
        max_positions=values.get("max_position_embeddings", ModernBertConfig.max_positions),
        norm_bias=values.get("norm_bias", False),
        layer_norm_epsilon=values.get("norm_eps", 1e-5),
        rope=rope,
        sliding_rope=sliding_rope,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=values.get("mlp_bias", False),
        activation=values.get("hidden_activation", "gelu"),
        pooler_bias=values.get("classifier_bias", False),
        pooler_activation=values.get("classifier_activation", "gelu"),
        pooling=values.get("classifier_pooling", "cls"),
        pad_token_id=values.get("pad_token_id", ModernBertConfig.pad_token_id),
        **_windows(values),
        **fields,
    )


def _windows(values: ConfigJson) -> ConfigJson:
    """Which layers see all of a text, and how far the others see to either side."""
    layers = values.get("num_hidden_layers", 22)
    every = values.get("global_attn_every_n_layers", 3)
    types = values.get("layer_types") or [SLIDING if i % every else FULL for i in range(layers)]
    if len(types) != layers or not set(types) <= {FULL, SLIDING}:
        raise unsupported("layer_types", types, f"{FULL!r} or {SLIDING!r} for each layer")
    full = tuple(i for i, kind in enumerate(types) if kind == FULL)
    shape = {"num_layers": layers}
    if len(full) == layers:
        return shape
    # `local_attention` counts both sides.
    return shape | {"sliding_window": values.get("local_attention", 128) // 2, "full_layers": full}


def _rope(values: ConfigJson, kind: str) -> Rope:
    """How positions turn in the layers of a kind."""
    default, before = _ROPES[kind]
    parameters = (values.get("rope_parameters") or {}).get(kind) or {}
    theta = values.get(before, default.theta)
    # Files before Transformers 5 write null for the rate of the full layers.
    theta = values.get(_ROPES[FULL][1], _ROPES[FULL][0].theta) if theta is None else theta
    limit = values.get("max_position_embeddings", ModernBertConfig.max_positions)
    return read_rope({"rope_theta": theta, "rope_parameters": parameters}, limit)


def to_hugging_face(config: ModernBertConfig, dtype: str) -> ConfigJson:
    """What config.json says of a model; the reverse of `from_hugging_face`."""
    c = config
    windows = {}
    if c.sliding_window is not None:
        windows["local_attention"] = 2 * c.sliding_window
    full = range(c.num_layers) if c.sliding_window is None else c.full_layers
    return windows | {
        "architectures": ["ModernBertForMaskedLM" if c.word_head else "ModernBertModel"],
        "model_type": c.model_type,
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_attention_heads": c.num_heads,
        "num_hidden_layers": c.num_layers,
        "max_position_embeddings": c.max_positions,
        "norm_bias": c.norm_bias,
        "norm_eps": c.layer_norm_epsilon,
        "attention_bias": c.qkv_bias,
        "mlp_bias": c.mlp_bias,
        "hidden_activation": c.activation,
        "layer_types": [FULL if i in full else SLIDING for i in range(c.num_layers)],
        "rope_parameters": {
            FULL: write_rope(c.rope or Rope()),
            SLIDING: write_rope(c.sliding_rope or Rope()),
        },
        "classifier_bias": c.pooler_bias,
        "classifier_activation": c.pooler_activation,
        "classifier_pooling": c.pooling,
        "pad_token_id": c.pad_token_id,
        # Or Transformers takes those of the published vocabulary; no part of the model reads them.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id")),
        "sep_token_id": c.sep_token_id,
        "dtype": dtype,
    }
