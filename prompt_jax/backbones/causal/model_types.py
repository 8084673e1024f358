"""What tells one model type from another: words of its config.json, and what the file leaves out.

The words are Llama's; a type that has others for the same things says so in `CALLED`.
"""

from typing import Any

from prompt_jax.backbones.config import ConfigJson

MODEL_TYPES = (
    *("gpt2", "llama", "mistral", "qwen2", "qwen3"),
    *("gemma", "gemma2", "gemma3", "gemma3_text", "olmo2", "smollm3"),
    *("phi3", "granite", "gpt_neox", "opt"),
)
"""What Hugging Face calls them; of a `gemma3` with a vision tower the text part is read."""
ALWAYS: dict[str, dict[str, Any]] = {
    "gpt2": {
        **{"norm": "layer", "rope": None, "fused": "by_role", "gated": False},
        **{"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    },
    "qwen2": {"out_bias": False},
    "qwen3": {"qk_norm": "heads"},
    "gemma": {"norm": "rms_from_one"},
    "gemma2": {"norm": "rms_from_one", "norm_places": ("before", "behind")},
    "gemma3_text": {
        "norm": "rms_from_one", "norm_places": ("before", "behind"), "qk_norm": "heads"
    },
    "olmo2": {"norm_places": ("behind",), "qk_norm": "whole"},
    "phi3": {"fused": "by_role", "fused_mlp": True},
    "opt": {"norm": "layer", "rope": None, "gated": False, "position_offset": 2},
    "gpt_neox": {"norm": "layer", "fused": "by_head", "gated": False, "mlp_bias": True},
}  # fmt: skip
"""Fields that a type decides and no config.json says, where they are not those of Llama."""
CALLED: dict[str, dict[str, str]] = {
    "gpt2": {
        **{"hidden_size": "n_embd", "intermediate_size": "n_inner", "num_hidden_layers": "n_layer"},
        **{"num_attention_heads": "n_head", "max_position_embeddings": "n_positions"},
        **{"rms_norm_eps": "layer_norm_epsilon", "hidden_act": "activation_function"},
    },
    "opt": {"intermediate_size": "ffn_dim", "hidden_act": "activation_function"},
    "gpt_neox": {
        **{"rms_norm_eps": "layer_norm_eps", "partial_rotary_factor": "rotary_pct"},
        **{"rope_theta": "rotary_emb_base"},
    },
    **dict.fromkeys(("gemma2", "gemma3_text"), {"hidden_act": "hidden_activation"}),
}
"""What a type's config.json calls things that Llama's has other words for."""
FIELDS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("gemma2", "gemma3_text"), {"final_logit_softcapping": "logit_cap"}),
    "gpt_neox": {"use_parallel_residual": "parallel_residual"},
    "opt": {"enable_bias": "qkv_bias"},
    "granite": {
        **{"embedding_multiplier": "input_scale", "residual_multiplier": "residual_scale"},
        **{"logits_scaling": "logits_scaling"},
    },
}
"""Words that only a type's config.json has, and the field that each of them is."""
ONLY: dict[str, ConfigJson] = {
    "gpt2": {
        **{"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        **{"add_cross_attention": False},
    },
    "opt": {"layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False},
    **dict.fromkeys(("gemma2", "gemma3_text"), {"use_bidirectional_attention": False}),
}
"""Options of a type that have one supported value."""
WINDOWED = ("mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3", "phi3")
"""Types whose layers may have a sliding window; in others the word means nothing."""
SWITCHED = ("qwen2", "qwen3", "smollm3")
"""Those of them that have it only with `use_sliding_window`."""
SHARED = ("gpt2", "gpt_neox", "opt")
"""Types whose heads have the width of the model together."""
PARTIAL = ("phi3", "gpt_neox")
"""Types of whose heads a part may turn with the positions, and the rest not."""
_GEMMA = {
    **{"num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192},
    **{"pad_token_id": 0, "eos_token_id": 1, "hidden_act": "gelu_pytorch_tanh"},
}
_GEMMA2 = _GEMMA | {
    **{"vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216},
    **{"num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4},
    **{"sliding_window": 4096, "query_pre_attn_scalar": 256, "sliding_window_pattern": 2},
    **{"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
}
LEFT_OUT: dict[str, ConfigJson] = {
    "gpt2": {
        **{"vocab_size": 50257, "hidden_size": 768, "num_attention_heads": 12},
        **{"num_hidden_layers": 12, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5},
        **{"hidden_act": "gelu_new"},
    },
    "qwen2": {"attention_bias": True},
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2
    | {"vocab_size": 262208, "max_position_embeddings": 131072, "sliding_window_pattern": 6}
    | {"final_logit_softcapping": None},
    "olmo2": {"rms_norm_eps": 1e-5},
    "gpt_neox": {
        **{"hidden_act": "gelu", "rms_norm_eps": 1e-5, "attention_bias": True},
        **{"partial_rotary_factor": 0.25, "use_parallel_residual": True, "eos_token_id": 2},
    },
    "opt": {
        **{"hidden_act": "relu", "rms_norm_eps": 1e-5, "enable_bias": True, "pad_token_id": 1},
        **{"eos_token_id": 2, "do_layer_norm_before": True},
    },
    "granite": {
        **dict.fromkeys(("embedding_multiplier", "attention_multiplier"), 1.0),
        **dict.fromkeys(("residual_multiplier", "logits_scaling"), 1.0),
    },
    "phi3": {"rms_norm_eps": 1e-5, "pad_token_id": 32000, "eos_token_id": 32000},
    "smollm3": {
        **{"num_key_value_heads": 4, "no_rope_layer_interval": 4, "rope_theta": 2e6},
        **{"max_position_embeddings": 32768, "pad_token_id": 128004, "eos_token_id": 128001},
    },
}
"""What a type's config.json may leave out: those of Gemma 3 say little more than their sizes."""
CLASSES = {
    "gpt2": "GPT2",
    "opt": "OPT",
    "gpt_neox": "GPTNeoX",
    "smollm3": "SmolLM3",
    "gemma3_text": "Gemma3",
}
"""How names of Transformers' classes begin, where that is not the type with a capital letter."""
