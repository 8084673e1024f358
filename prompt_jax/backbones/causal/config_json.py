"""How a `config.json` of each model type says the shape of a decoder-only model."""

from typing import Any

from prompt_jax.backbones.causal.config import MODEL_TYPES, CausalConfig, StackConfig
from prompt_jax.backbones.causal.rope import Rope, read_rope, write_rope
from prompt_jax.backbones.config import (
    ConfigJson,
    check_fields,
    end_ids,
    unsupported,
    written_ends,
)
from prompt_jax.config import choose

FULL, SLIDING = "full_attention", "sliding_attention"
_GEMMA = {
    **{"num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192},
    **{"pad_token_id": 0, "eos_token_id": 1},
    **dict.fromkeys(("hidden_act", "hidden_activation"), "gelu_pytorch_tanh"),
}
_GEMMA2 = _GEMMA | {
    **{"vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216},
    **{"num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4},
    **{"sliding_window": 4096, "query_pre_attn_scalar": 256, "sliding_window_pattern": 2},
    **{"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
}
LEFT_OUT: dict[str, ConfigJson] = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2
    | {"vocab_size": 262208, "max_position_embeddings": 131072, "sliding_window_pattern": 6}
    | {"final_logit_softcapping": None},
}
"""What a type's config.json may leave out: those of Gemma 3 say little more than their sizes."""
ALWAYS: dict[str, dict[str, Any]] = {
    "qwen3": {"qk_norm": True},
    "gemma": {"norm": "rms_from_one"},
    "gemma2": {"norm": "rms_from_one", "norm_places": ("before", "behind")},
    "gemma3_text": {
        "norm": "rms_from_one", "norm_places": ("before", "behind"), "qk_norm": True
    },
}  # fmt: skip
"""Fields that a type decides and no config.json says."""


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
    if kind == "gpt2":
        return _gpt2(values, **fields)
    if kind == "gemma3":
        special = {name: values[name] for name in SPECIAL if values.get(name)}
        values = {**values.get("text_config", {}), **special, "model_type": "gemma3_text"}
    values = filled(values["model_type"], values)
    return CausalConfig(
        vocab_size=values["vocab_size"],
        embedding_scale=values["hidden_size"] ** 0.5 if kind.startswith("gemma") else 1.0,
        logit_cap=values.get("final_logit_softcapping"),
        **stack_fields(values),
        **special_tokens(values),
        **fields,
    )


def filled(kind: str, values: ConfigJson) -> ConfigJson:
    """What a config.json says, and what it leaves out."""
    defaults = LEFT_OUT.get(kind, {})
    # A file of tokens that end an answer may have none, and then leaves them out too.
    present = {name: value for name, value in values.items() if value != []}
    return {**defaults, **present, "model_type": kind}


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
        **special_tokens(values),
        **fields,
    )


def stack_fields(values: ConfigJson) -> dict[str, Any]:
    """Fields of a `StackConfig` of Llama's kind, of a config.json with nothing left out."""
    kind, heads, width = values["model_type"], values["num_attention_heads"], values["hidden_size"]
    gemma = kind.startswith("gemma")
    limit = values.get("max_position_embeddings", 2048)
    rope, sliding_rope = read_ropes(values, limit)
    bias = values.get("attention_bias", kind == "qwen2")
    head = values.get("head_dim") or width // heads
    # Gemma 2 and 3 may divide by the root of another number than the width of a head.
    scalar = values.get("query_pre_attn_scalar", head)
    activation = values.get("hidden_act", "silu")
    if kind == "gemma":  # Its first config.json says "gelu" and means the approximation.
        activation = {"gelu": "gelu_pytorch_tanh"}.get(activation, activation)
    elif gemma:
        activation = values["hidden_activation"]
    windows = _windows(values)
    if values.get("use_bidirectional_attention"):
        raise unsupported("use_bidirectional_attention", True, False)
    return {
        "model_type": kind,
        "d_model": width,
        "d_kv": head,
        "d_ff": values["intermediate_size"],
        "num_heads": heads,
        "num_kv_heads": values.get("num_key_value_heads") or heads,
        "num_layers": values["num_hidden_layers"],
        "max_positions": max(limit, rope.reach),
        "norm": "rms",
        "layer_norm_epsilon": values.get("rms_norm_eps", 1e-6),
        "rope": rope,
        "sliding_rope": sliding_rope if windows else None,
        "fused": False,
        "qkv_bias": bias,
        "out_bias": bias and kind != "qwen2",
        "mlp_bias": values.get("mlp_bias", False),
        "query_scale": None if scalar == head else scalar**-0.5,
        # Gemma 3 has the field too, and reads it nowhere.
        "attention_cap": values.get("attn_logit_softcapping") if kind == "gemma2" else None,
        "activation": activation,
        "gated": True,
        **windows,
        **ALWAYS.get(kind, {}),
    }


def _windows(values: ConfigJson) -> ConfigJson:
    """How far layers see: as `layer_types` says, or as its family does without.

    Qwen's first `max_window_layers` are full, and each `sliding_window_pattern`-th of Gemma's.
    """
    kind, layers = values["model_type"], values["num_hidden_layers"]
    qwen, window = kind.startswith("qwen"), values.get("sliding_window")
    if kind in ("llama", "gemma") or (qwen and not values.get("use_sliding_window", False)):
        window = None
    first = (values.get("max_window_layers", 28) or 0) if qwen else 0
    first = layers if window is None else first
    # One more than there are layers has no full one behind the first.
    every = values.get("sliding_window_pattern") or layers + 1
    types = values.get("layer_types") or [
        FULL if i < first or (i + 1) % every == 0 else SLIDING for i in range(layers)
    ]
    allowed = (FULL,) if window is None else (FULL, SLIDING)
    if len(types) != layers or set(types) - set(allowed):
        names = " or ".join(map(repr, allowed))
        raise unsupported("layer_types", types, f"{names} for each of {layers} layers")
    full = tuple(i for i, name in enumerate(types) if name == FULL)
    return {} if len(full) == layers else {"sliding_window": window, "full_layers": full}


def read_ropes(values: ConfigJson, limit: int) -> tuple[Rope, Rope | None]:
    """How positions turn in full layers, and in those with a window where that differs.

    Gemma 3 says both in `rope_parameters`, by the type of a layer; before Transformers 5 it had a
    field for either.
    """
    if values["model_type"] != "gemma3_text":
        return read_rope(values, limit), None
    both = values.get("rope_parameters") or {
        FULL: {"rope_theta": values.get("rope_theta", 1e6), **(values.get("rope_scaling") or {})},
        SLIDING: {"rope_theta": values.get("rope_local_base_freq", 1e4)},
    }
    full, sliding = (
        read_rope({"rope_theta": theta, "rope_parameters": both.get(kind)}, limit)
        for kind, theta in ((FULL, 1e6), (SLIDING, 1e4))
    )
    return full, sliding


SPECIAL = ("eos_token_id", "pad_token_id")


def special_tokens(values: ConfigJson) -> dict[str, Any]:
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
    name, part = c.model_type.capitalize(), "Model"
    if name.endswith("_text"):
        name, part = name.removesuffix("_text"), "TextModel"
    values = shared | {"architectures": [name + ("ForCausalLM" if c.word_head else part)]}
    if c.model_type.startswith("gemma"):
        values["final_logit_softcapping"] = c.logit_cap
    return values | stack_values(c)


def stack_values(config: StackConfig) -> dict[str, Any]:
    """What config.json says of a stack; the reverse of `stack_fields`."""
    c = config
    window, full, rope = c.sliding_window, c.full_layers, write_rope(c.rope or Rope())
    values = {
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
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": 0,
        "hidden_act": c.activation,
    }
    gemma = c.model_type.startswith("gemma")
    if full or gemma:
        near = window is not None
        types = [SLIDING if near and i not in full else FULL for i in range(c.num_layers)]
        values["layer_types"] = types
    if not gemma:
        return values
    if c.model_type == "gemma3_text":
        values["rope_parameters"] = {FULL: rope}
        if c.sliding_rope is not None:
            values["rope_parameters"][SLIDING] = write_rope(c.sliding_rope)
    scale = c.d_kv**-0.5 if c.query_scale is None else c.query_scale
    return values | {
        "hidden_activation": c.activation,
        "query_pre_attn_scalar": round(scale**-2),
        "attn_logit_softcapping": c.attention_cap,
    }
