"""The shape of a decoder-only model, and how Hugging Face's configs of each family say it."""

import dataclasses
from typing import Any

from prompt_jax.backbones.causal.rope import Rope, read_rope, write_rope
from prompt_jax.backbones.config import (
    ConfigJson,
    ModelConfig,
    check_fields,
    end_ids,
    unsupported,
    written_ends,
)
from prompt_jax.backbones.sockets import Head
from prompt_jax.config import InputError, at_least, choose

MODEL_TYPES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalConfig(ModelConfig):
    """The shape of a decoder-only model; what is named as in T5Config means the same."""

    target_place = "behind"

    model_type: str = "gpt2"
    """What Hugging Face calls the family, and so its weights."""
    vocab_size: int = 50257
    num_kv_heads: int = 12
    """Heads of keys and values; each serves num_heads / num_kv_heads heads of queries."""
    max_positions: int = 1024
    """Most virtual and text tokens together; GPT-2 has no embedding for later ones."""
    norm: str = "layer"
    """`layer` (mean and bias too) or `rms`."""
    layer_norm_epsilon: float = 1e-5
    rope: Rope | None = None
    """None adds learned position embeddings to the input."""
    fused: bool = True
    """Queries, keys and values are one kernel."""
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    qk_norm: bool = False
    """Queries and keys are normed, head by head: Qwen3."""
    sliding_window: int | None = None
    """A position sees only so many before it, itself included."""
    full_layers: tuple[int, ...] = ()
    """Layers that a sliding window leaves alone, the first being 0."""
    tie_embeddings: bool = True
    bidirectional_input: bool = False
    """Prompt and input see each other whole, as in a prefix language model; targets stay causal."""
    count_padding: bool = False
    """Padding takes positions too, so that a text padded on the left is read as another one: what
    PEFT does with virtual tokens in the input, and Transformers where no position_ids are given."""
    eos_token_ids: tuple[int, ...] = (50256,)

    def __post_init__(self):
        super().__post_init__()
        at_least("num_kv_heads", self.num_kv_heads, 1)
        if self.model_type == "gpt2" and self.num_heads * self.d_kv != self.d_model:
            raise InputError(
                f"the heads of a GPT-2 share its width, got {self.num_heads} heads of {self.d_kv} "
                f"and d_model {self.d_model}; n_embd must be a multiple of n_head"
            )
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"num_heads must be a multiple of num_kv_heads, got {self.num_heads} and "
                f"{self.num_kv_heads}; use the config.json that belongs to the weights"
            )

        layers = range(self.num_layers)
        if not set(self.full_layers) < set(layers):
            raise InputError(
                f"full_layers must be some of the {len(layers)} layers, 0 to {len(layers) - 1}, "
                f"got {self.full_layers}; where all are, sliding_window is None"
            )

    def head(self, task_type: str) -> Head:
        """What a head for a task is made of, as the family has it."""
        return Head(bias=task_type != "SEQ_CLS")


PRESETS: dict[str, CausalConfig] = {}
"""None: "gpt2" and the like are ids of the hub."""


def one_layer(model_type: str) -> tuple[CausalConfig, ...]:
    """Small models that between them have every kernel of a family."""
    if model_type == "gpt2":
        return (CausalConfig(num_layers=1),)
    return (
        CausalConfig(
            model_type=model_type, num_layers=1, norm="rms", rope=Rope(), fused=False, gated=True
        ),
    )


def from_hugging_face(values: ConfigJson, **fields: Any) -> CausalConfig:
    """The config of a Hugging Face `config.json`.

    Args:
      values: of the file.
      fields: what it does not tell: those of `told_by_weights`, and those of the user.

    Raises:
      InputError: a model type, an activation or an option that is not supported.
    """
    kind = values.get("model_type", "")
    choose("model type", kind, MODEL_TYPES)
    return (_gpt2 if kind == "gpt2" else _llama)(values, **fields)


def _gpt2(values: ConfigJson, **fields: Any) -> CausalConfig:
    supported = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    check_fields(values, {**supported, "add_cross_attention": False})
    width, heads = values.get("n_embd", 768), values.get("n_head", 12)
    return CausalConfig(
        model_type="gpt2",
        vocab_size=values.get("vocab_size", 50257),
        d_model=width,
        d_kv=width // heads,
        d_ff=values.get("n_inner") or 4 * width,
        num_heads=heads,
        num_kv_heads=heads,
        num_layers=values.get("n_layer", 12),
        max_positions=values.get("n_positions", 1024),
        layer_norm_epsilon=values.get("layer_norm_epsilon", 1e-5),
        activation=values.get("activation_function", "gelu_new"),
        **_special(values),
        **fields,
    )


def _llama(values: ConfigJson, **fields: Any) -> CausalConfig:
    kind, heads = values["model_type"], values["num_attention_heads"]
    limit = values.get("max_position_embeddings", 2048)
    rope = read_rope(values, limit)
    bias = values.get("attention_bias", kind == "qwen2")
    return CausalConfig(
        model_type=kind,
        vocab_size=values["vocab_size"],
        d_model=values["hidden_size"],
        d_kv=values.get("head_dim") or values["hidden_size"] // heads,
        d_ff=values["intermediate_size"],
        num_heads=heads,
        num_kv_heads=values.get("num_key_value_heads") or heads,
        num_layers=values["num_hidden_layers"],
        max_positions=max(limit, rope.reach),
        norm="rms",
        layer_norm_epsilon=values.get("rms_norm_eps", 1e-6),
        rope=rope,
        fused=False,
        qkv_bias=bias,
        out_bias=bias and kind != "qwen2",
        mlp_bias=values.get("mlp_bias", False),
        qk_norm=kind == "qwen3",
        activation=values.get("hidden_act", "silu"),
        gated=True,
        **_windows(values),
        **_special(values),
        **fields,
    )


def _windows(values: ConfigJson) -> ConfigJson:
    """How far layers see: as `layer_types` says, or Qwen's `max_window_layers`, the first full."""
    kind, layers = values["model_type"], values["num_hidden_layers"]
    qwen, window = kind.startswith("qwen"), values.get("sliding_window")
    if kind == "llama" or (qwen and not values.get("use_sliding_window", False)):
        window = None
    first = (values.get("max_window_layers", 28) or 0) if qwen else 0
    first = layers if window is None else first
    types = values.get("layer_types") or [FULL if i < first else SLIDING for i in range(layers)]
    allowed = (FULL,) if window is None else (FULL, SLIDING)
    if len(types) != layers or set(types) - set(allowed):
        names = " or ".join(map(repr, allowed))
        raise unsupported("layer_types", types, f"{names} for each of {layers} layers")
    full = tuple(i for i, name in enumerate(types) if name == FULL)
    return {} if len(full) == layers else {"sliding_window": window, "full_layers": full}


def _special(values: ConfigJson) -> dict[str, Any]:
    """Ids of special tokens."""
    return {"eos_token_ids": end_ids(values), "pad_token_id": values.get("pad_token_id")}


def to_hugging_face(config: CausalConfig, dtype: str) -> ConfigJson:
    """What config.json says of a model; the reverse of `from_hugging_face`."""
    c = config
    shared = {
        "model_type": c.model_type,
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tie_embeddings and c.word_head,
        "pad_token_id": c.pad_token_id,
        "eos_token_id": written_ends(c.eos_token_ids),
        "dtype": dtype,
    }
    if c.model_type == "gpt2":
        return shared | {
            "architectures": ["GPT2LMHeadModel" if c.word_head else "GPT2Model"],
            "bos_token_id": next(iter(c.eos_token_ids), None),
            "n_embd": c.d_model,
            "n_inner": c.d_ff,
            "n_head": c.num_heads,
            "n_layer": c.num_layers,
            "n_positions": c.max_positions,
            "layer_norm_epsilon": c.layer_norm_epsilon,
            "activation_function": c.activation,
        }
    window, full = c.sliding_window, c.full_layers
    return shared | {
        "architectures": [
            f"{c.model_type.capitalize()}{'ForCausalLM' if c.word_head else 'Model'}"
        ],
        "hidden_size": c.d_model,
        "head_dim": c.d_kv,
        "intermediate_size": c.d_ff,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "num_hidden_layers": c.num_layers,
        "max_position_embeddings": c.max_positions,
        "rms_norm_eps": c.layer_norm_epsilon,
        "rope_parameters": write_rope(c.rope or Rope()),
        "attention_bias": c.qkv_bias,
        "mlp_bias": c.mlp_bias,
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": 0,
        **(
            {"layer_types": [FULL if i in full else SLIDING for i in range(c.num_layers)]}
            if full
            else {}
        ),
        "hidden_act": c.activation,
    }
