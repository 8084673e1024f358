"""How a `config.json` of each model type says the shape of a decoder-only model."""

from typing import Any

from prompt_jax.backbones.causal.config import CausalConfig, StackConfig
from prompt_jax.backbones.causal.model_types import (
    ALWAYS,
    CALLED,
    CLASSES,
    FIELDS,
    LEFT_OUT,
    MODEL_TYPES,
    ONLY,
    PARTIAL,
    SWITCHED,
    WINDOWED,
)
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
SPECIAL = ("eos_token_id", "pad_token_id")


def from_hugging_face(values: ConfigJson, **fields: Any) -> CausalConfig:
    """As `families.Family.from_hugging_face`."""
    kind = values.get("model_type", "")
    choose("model type", kind, MODEL_TYPES)
    if kind == "gemma3":
        special = {name: values[name] for name in SPECIAL if values.get(name)}
        kind = "gemma3_text"
        values = {**values.get("text_config", {}), **special}
    values = filled(kind, values)
    return CausalConfig(
        vocab_size=values["vocab_size"],
        embedding_scale=values["hidden_size"] ** 0.5 if kind.startswith("gemma") else 1.0,
        **stack_fields(values)
        | {field: values[word] for word, field in FIELDS.get(kind, {}).items()},
        **special_tokens(values),
        **fields,
    )


def filled(kind: str, values: ConfigJson) -> ConfigJson:
    """What a config.json says, in Llama's words, and what it leaves out."""
    called = CALLED.get(kind, {})
    # A file of tokens that end an answer may have none, and then leaves them out too.
    present = {name: value for name, value in values.items() if value != []}
    renamed = {name: present.pop(word) for name, word in called.items() if word in present}
    # A type that has a word of its own reads no other: Gemma 2 passes over its `hidden_act`.
    present = {name: value for name, value in present.items() if name not in called}
    return {**LEFT_OUT.get(kind, {}), **present, **renamed, "model_type": kind}


def stack_fields(values: ConfigJson) -> dict[str, Any]:
    """Fields of a `StackConfig`, of a config.json in Llama's words with nothing left out."""
    kind, heads, width = values["model_type"], values["num_attention_heads"], values["hidden_size"]
    # The embeddings of the smaller OPT are narrower than its layers.
    check_fields(values, {**ONLY.get(kind, {}), "word_embed_proj_dim": width})
    limit = values.get("max_position_embeddings", 2048)
    rope, sliding_rope = read_ropes(values, limit)
    # OPT has one word for the biases of all kernels.
    bias = values.get("attention_bias", values.get("enable_bias", False))
    head = values.get("head_dim") or width // heads
    # Gemma 2 and 3 may divide by the root of another number than the width of a head.
    scalar = values.get("query_pre_attn_scalar", head)
    scale = values.get("attention_multiplier", scalar**-0.5)
    activation = values.get("hidden_act", "silu")
    if kind == "gemma":  # Its first config.json says "gelu" and means the approximation.
        activation = {"gelu": "gelu_pytorch_tanh"}.get(activation, activation)
    windows, still = _windows(values), nope_layers(values)
    return {
        "model_type": kind,
        "d_model": width,
        "d_kv": head,
        "d_ff": values.get("intermediate_size") or 4 * width,
        "num_heads": heads,
        "num_kv_heads": values.get("num_key_value_heads") or heads,
        "num_layers": values["num_hidden_layers"],
        "max_positions": rope.reach(limit),
        "norm": "rms",
        "norm_places": ("before",) if values.get("do_layer_norm_before", True) else ("after",),
        "layer_norm_epsilon": values.get("rms_norm_eps", 1e-6),
        "rope": rope,
        "sliding_rope": sliding_rope if windows else None,
        "nope_layers": still,
        "fused": None,
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": values.get("mlp_bias", values.get("enable_bias", False)),
        "query_scale": None if scale == head**-0.5 else scale,
        # Gemma 3 has the field too, and reads it nowhere.
        "attention_cap": values.get("attn_logit_softcapping") if kind == "gemma2" else None,
        "activation": activation,
        "gated": True,
        **windows,
        **ALWAYS.get(kind, {}),
    }


def _windows(values: ConfigJson) -> ConfigJson:
    """How far layers see: as `layer_types` says, or as its family does without.

    Qwen's first `max_window_layers` are full, each `sliding_window_pattern`-th of Gemma's, and of
    SmolLM3's those whose positions turn.
    """
    kind, layers, window = values["model_type"], values["num_hidden_layers"], None
    # Qwen and SmolLM3 name a window that only this option opens.
    if kind in WINDOWED and values.get("use_sliding_window", kind not in SWITCHED):
        window = values.get("sliding_window") or None
    first = (values.get("max_window_layers", 28) or 0) if kind.startswith("qwen") else 0
    # One more than there are layers has no full one behind the first.
    every = values.get("sliding_window_pattern") or layers + 1
    near = [i for i in range(first, layers) if (i + 1) % every]
    near = nope_layers(values) if kind == "smollm3" else near
    types = values.get("layer_types") or [
        SLIDING if window is not None and i in near else FULL for i in range(layers)
    ]
    allowed = (FULL,) if window is None else (FULL, SLIDING)
    if len(types) != layers or set(types) - set(allowed):
        names = " or ".join(map(repr, allowed))
        raise unsupported("layer_types", types, f"{names} for each of {layers} layers")
    full = tuple(i for i, name in enumerate(types) if name == FULL)
    return {} if len(full) == layers else {"sliding_window": window, "full_layers": full}


def nope_layers(values: ConfigJson) -> tuple[int, ...]:
    """The layers in which no position turns: SmolLM3 says 1 for those that have a rope.

    Where it does not say, each `no_rope_layer_interval`-th is one.
    """
    layers = range(values["num_hidden_layers"])
    if values["model_type"] != "smollm3":
        return ()
    every = values["no_rope_layer_interval"]
    turning = values.get("no_rope_layers") or [(i + 1) % every for i in layers]
    if len(turning) < len(layers):
        raise unsupported("no_rope_layers", turning, f"a 0 or 1 for each of {len(layers)} layers")
    return tuple(i for i in layers if not turning[i])


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


def special_tokens(values: ConfigJson) -> dict[str, Any]:
    """Ids of special tokens."""
    return {"eos_token_ids": end_ids(values), "pad_token_id": values.get("pad_token_id")}


def to_hugging_face(config: CausalConfig, dtype: str) -> ConfigJson:
    """What config.json says of a model; the reverse of `from_hugging_face`."""
    c, kind = config, config.model_type
    name = CLASSES.get(kind, kind.capitalize())
    written = "LMHeadModel" if kind == "gpt2" else "ForCausalLM"
    bare = "TextModel" if kind.endswith("_text") else "Model"
    return {
        "model_type": kind,
        "architectures": [name + (written if c.word_head else bare)],
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tie_embeddings and c.word_head,
        "pad_token_id": c.pad_token_id,
        "eos_token_id": written_ends(c.eos_token_ids),
        "dtype": dtype,
        # It begins a text that has no input with its end.
        **({"bos_token_id": next(iter(c.eos_token_ids), None)} if kind == "gpt2" else {}),
        **{word: getattr(c, field) for word, field in FIELDS.get(kind, {}).items()},
        **stack_values(c),
    }


def stack_values(config: StackConfig) -> dict[str, Any]:
    """What config.json says of a stack; the reverse of `stack_fields`."""
    c, called = config, CALLED.get(config.model_type, {})
    values = {
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_attention_heads": c.num_heads,
        "num_hidden_layers": c.num_layers,
        "max_position_embeddings": c.max_positions,
        "rms_norm_eps": c.layer_norm_epsilon,
        "hidden_act": c.activation,
    }
    if c.model_type == "opt":
        values["do_layer_norm_before"] = "before" in c.norm_places
        values["word_embed_proj_dim"] = c.d_model
    if c.rope is not None:
        values |= _rotary_values(c, c.rope)
    return {called.get(name, name): value for name, value in values.items()}


def _rotary_values(c: StackConfig, rope: Rope) -> ConfigJson:
    """What there is to say of the attention of a model whose positions turn."""
    window, gemma = c.sliding_window, c.model_type.startswith("gemma")
    values = {
        "head_dim": c.d_kv,
        "num_key_value_heads": c.num_kv_heads,
        "rope_parameters": write_rope(rope),
        "attention_bias": c.qkv_bias,
        "mlp_bias": c.mlp_bias,
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": 0,
    }
    if c.full_layers or gemma:
        near = window is not None
        types = [SLIDING if near and i not in c.full_layers else FULL for i in range(c.num_layers)]
        values["layer_types"] = types
    if rope.kind == "longrope":
        values["original_max_position_embeddings"] = rope.original
        values["max_position_embeddings"] = round(rope.factor * rope.original)
    if c.model_type in PARTIAL:
        values["rope_parameters"]["partial_rotary_factor"] = rope.part
    if c.model_type == "smollm3":
        values["no_rope_layers"] = [int(i not in c.nope_layers) for i in range(c.num_layers)]
    if c.model_type == "gemma3_text":
        values["rope_parameters"] = {FULL: write_rope(rope)}
        if c.sliding_rope is not None:
            values["rope_parameters"][SLIDING] = write_rope(c.sliding_rope)
    scale = c.d_kv**-0.5 if c.query_scale is None else c.query_scale
    if c.model_type == "granite":
        values["attention_multiplier"] = scale
    if gemma:
        values["query_pre_attn_scalar"] = round(scale**-2)
        values["attn_logit_softcapping"] = c.attention_cap
    return values
