"""The architectures of .gguf files that are read, and how their metadata say a `config.json`."""

from collections.abc import Mapping
from typing import NamedTuple

CONTEXT, DEPTH, WIDTH = "context_length", "block_count", "embedding_length"
INNER, HEADS = "feed_forward_length", "attention.head_count"
LLAMA = {
    CONTEXT: "max_position_embeddings",
    DEPTH: "num_hidden_layers",
    WIDTH: "hidden_size",
    INNER: "intermediate_size",
    HEADS: "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
NEOX = LLAMA | {
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "use_parallel_residual": "use_parallel_residual",
}
GEMMA = LLAMA | {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
GPT2 = {
    CONTEXT: "n_positions",
    DEPTH: "n_layer",
    WIDTH: "n_embd",
    INNER: "n_inner",
    HEADS: "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
T5 = {
    DEPTH: "num_layers",
    "decoder_block_count": "num_decoder_layers",
    WIDTH: "d_model",
    INNER: "d_ff",
    HEADS: "num_heads",
    "attention.key_length": "d_kv",
    "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
    "attention.relative_buckets_count": "relative_attention_num_buckets",
    "decoder_start_token_id": "decoder_start_token_id",
}


class Architecture(NamedTuple):
    """How files of one architecture say what a `config.json` says."""

    model_type: str
    fields: Mapping[str, str]
    """Of a config.json, by the key behind the architecture's name."""
    interleaved: bool = False
    """The rows of queries and keys stand in the order of llama.cpp's rotary pairs."""


ARCHITECTURES = {
    "llama": Architecture("llama", LLAMA, interleaved=True),
    "qwen2": Architecture("qwen2", LLAMA),
    "qwen3": Architecture("qwen3", LLAMA),
    "gemma": Architecture("gemma", GEMMA),
    "gemma2": Architecture("gemma2", GEMMA),
    "gemma3": Architecture("gemma3_text", GEMMA),
    "olmo2": Architecture("olmo2", LLAMA),
    "smollm3": Architecture("smollm3", LLAMA, interleaved=True),
    "phi3": Architecture("phi3", LLAMA),
    "granite": Architecture("granite", LLAMA, interleaved=True),
    "gptneox": Architecture("gpt_neox", NEOX),
    "gpt2": Architecture("gpt2", GPT2),
    "t5": Architecture("t5", T5),
}
"""llama.cpp's `general.architecture`; it calls SmolLM2 and Mistral llama too."""
