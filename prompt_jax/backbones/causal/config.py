"""The shape of a decoder-only model, and how Hugging Face's configs of each family say it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from prompt_jax.backbones.sockets import Head
from prompt_jax.backbones.stack import ACTIVATIONS
from prompt_jax.config import REMATS, InputError, at_least, choose

MODEL_TYPES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
ROPE_TYPES = ("default", "linear", "llama3")


class Rope(NamedTuple):
    """Rotary position embeddings (Su et al. 2021) and how their frequencies are stretched."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192
    """Of `llama3`: wavelengths up to `original / high` stay, those from `original / low` on are
    stretched by `factor`, and those between partly."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalConfig:
    """The shape of a decoder-only model; what is named as in T5Config means the same."""

    model_type: str = "gpt2"
    """What Hugging Face calls the family, and so its weights."""
    vocab_size: int = 50257
    d_model: int = 768
    d_kv: int = 64
    d_ff: int = 3072
    num_heads: int = 12
    num_kv_heads: int = 12
    """Heads of keys and values; each serves num_heads / num_kv_heads heads of queries."""
    num_layers: int = 12
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
    activation: str = "gelu_new"
    gated: bool = False
    tie_embeddings: bool = True
    bidirectional_input: bool = False
    """Prompt and input see each other whole, as in a prefix language model; targets stay causal."""
    pad_token_id: int = 0
    eos_token_id: int = 50256
    dropout: float = 0.0
    remat: str = "none"
    scan: bool = True
    dtype: DTypeLike = jnp.float32
    mesh: Any = None

    def __post_init__(self):
        choose("activation", self.activation, ACTIVATIONS)
        choose("remat", self.remat, REMATS)
        for size in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_kv_heads"):
            at_least(size, getattr(self, size), 1)
        at_least("num_layers", self.num_layers, 1)
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

    def head(self, task_type: str) -> Head:
        """What a head for a task is made of, as the family has it."""
        return Head(bias=task_type != "SEQ_CLS")


PRESETS: dict[str, CausalConfig] = {}
"""None: "gpt2" and the like are ids of the hub."""


def one_layer(model_type: str) -> tuple[CausalConfig, ...]:
    """Small models that between them have every kernel of a family."""
    if model_type == "gpt2":
        return (CausalConfig(num_layers=1),)
    other = {"model_type": model_type, "rope": Rope(), "fused": False, "gated": True}
    return (CausalConfig(num_layers=1, norm="rms", **other),)


def from_hugging_face(values: Mapping[str, Any], **ours: Any) -> CausalConfig:
    """The config of a Hugging Face `config.json`.

    Args:
      values: of the file.
      ours: fields that it does not tell: those of `told_by_weights`, and those of the user.

    Raises:
      InputError: a model type, an activation or an option that is not supported.
    """
    kind = values.get("model_type", "")
    choose("model type", kind, MODEL_TYPES)
    return (_gpt2 if kind == "gpt2" else _llama)(values, **ours)


def _gpt2(values: Mapping[str, Any], **ours: Any) -> CausalConfig:
    for name, wanted in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if values.get(name, wanted) != wanted:
            raise _unsupported(name, values[name], wanted)
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
        **ours,
    )


def _llama(values: Mapping[str, Any], **ours: Any) -> CausalConfig:
    kind, heads = values["model_type"], values["num_attention_heads"]
    layers, window = values["num_hidden_layers"], values.get("sliding_window")
    if kind.startswith("qwen") and not values.get("use_sliding_window", False):
        window = None
    types = set(values.get("layer_types") or ())
    if len(types) > 1 or (window and values.get("max_window_layers", 0) not in (0, None)):
        raise _unsupported("a sliding window", "in some layers", "in all layers or none")
    bias = values.get("attention_bias", kind == "qwen2")
    return CausalConfig(
        model_type=kind,
        vocab_size=values["vocab_size"],
        d_model=values["hidden_size"],
        d_kv=values.get("head_dim") or values["hidden_size"] // heads,
        d_ff=values["intermediate_size"],
        num_heads=heads,
        num_kv_heads=values.get("num_key_value_heads") or heads,
        num_layers=layers,
        max_positions=values.get("max_position_embeddings", 2048),
        norm="rms",
        layer_norm_epsilon=values.get("rms_norm_eps", 1e-6),
        rope=_rope(values),
        fused=False,
        qkv_bias=bias,
        out_bias=bias and kind != "qwen2",
        mlp_bias=values.get("mlp_bias", False),
        qk_norm=kind == "qwen3",
        sliding_window=window,
        activation=values.get("hidden_act", "silu"),
        gated=True,
        **_special(values),
        **ours,
    )


def _rope(values: Mapping[str, Any]) -> Rope:
    """Transformers 5 keeps everything in `rope_parameters`, version 4 had two fields."""
    found = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = found.get("rope_type", found.get("type", "default"))
    choose("rope_type", kind, ROPE_TYPES)
    return Rope(
        theta=found.get("rope_theta", values.get("rope_theta", 10000.0)),
        kind=kind,
        factor=found.get("factor", 1.0),
        low=found.get("low_freq_factor", 1.0),
        high=found.get("high_freq_factor", 4.0),
        original=found.get("original_max_position_embeddings", 8192),
    )


def _special(values: Mapping[str, Any]) -> dict[str, int]:
    """Ids of special tokens; without a padding token any id will do, for it is masked."""
    eos = values.get("eos_token_id")
    eos = eos[0] if isinstance(eos, list) else eos
    pad = values.get("pad_token_id")
    return {"eos_token_id": 0 if eos is None else eos, "pad_token_id": 0 if pad is None else pad}


def _unsupported(name: str, got: Any, allowed: Any) -> InputError:
    return InputError(
        f"config.json has {name} {got!r}, which is not supported; allowed: {allowed}; use another "
        "checkpoint of the family"
    )


def to_hugging_face(config: CausalConfig, dtype: str) -> dict[str, Any]:
    """What config.json says of a model; the reverse of `from_hugging_face`."""
    c = config
    shared = {
        "model_type": c.model_type,
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tie_embeddings,
        "pad_token_id": c.pad_token_id,
        "eos_token_id": c.eos_token_id,
        "dtype": dtype,
    }
    if c.model_type == "gpt2":
        return shared | {
            "architectures": ["GPT2LMHeadModel"],
            "bos_token_id": c.eos_token_id,
            "n_embd": c.d_model,
            "n_inner": c.d_ff,
            "n_head": c.num_heads,
            "n_layer": c.num_layers,
            "n_positions": c.max_positions,
            "layer_norm_epsilon": c.layer_norm_epsilon,
            "activation_function": c.activation,
        }
    assert c.rope is not None
    rope = {"rope_theta": c.rope.theta, "rope_type": c.rope.kind}
    if c.rope.kind != "default":
        rope["factor"] = c.rope.factor
    if c.rope.kind == "llama3":
        rope |= {
            "low_freq_factor": c.rope.low,
            "high_freq_factor": c.rope.high,
            "original_max_position_embeddings": c.rope.original,
        }
    return shared | {
        "architectures": [f"{c.model_type.capitalize()}ForCausalLM"],
        "hidden_size": c.d_model,
        "head_dim": c.d_kv,
        "intermediate_size": c.d_ff,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "num_hidden_layers": c.num_layers,
        "max_position_embeddings": c.max_positions,
        "rms_norm_eps": c.layer_norm_epsilon,
        "rope_parameters": rope,
        "attention_bias": c.qkv_bias,
        "mlp_bias": c.mlp_bias,
        "use_sliding_window": c.sliding_window is not None,
        "sliding_window": c.sliding_window,
        "max_window_layers": 0,
        "hidden_act": c.activation,
    }
