"""A backbone as a folder in Hugging Face's format."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_jax.backbones import Backbone, t5
from prompt_jax.config import choose
from prompt_jax.weights.mapping import disassemble
from prompt_jax.weights.stored import FLOATS


def save_hugging_face(folder: str | Path, backbone: Backbone, *, dtype: str = "float32") -> Path:
    """Writes config.json, model.safetensors and the tokenizer, if there is one.

    `T5ForConditionalGeneration.from_pretrained(folder)` and `load_backbone(folder)` give the same
    model again.

    Raises:
      InputError: a dtype that is not floating.
    """
    from safetensors.numpy import save_file

    choose("dtype", dtype, FLOATS)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: values.astype(FLOATS[dtype])
        for name, values in disassemble(backbone.params, backbone.config).items()
    }
    _replace(
        folder / "model.safetensors",
        lambda file: save_file(tensors, file, metadata={"format": "pt"}),
    )
    text = json.dumps(hugging_face_config(backbone.config, dtype), indent=2) + "\n"
    _replace(folder / "config.json", lambda file: file.write_text(text, encoding="utf-8"))
    if backbone.tokenizer is not None:
        backbone.tokenizer.save_pretrained(folder)
    return folder


def _replace(file: Path, write: Callable[[Path], Any]) -> None:
    """The file appears whole or not at all."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write(partial)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def hugging_face_config(config: t5.T5Config, dtype: str) -> dict[str, Any]:
    """What config.json says of a T5.

    Whether logits are scaled is written twice: Transformers 4 reads it from `tie_word_embeddings`,
    Transformers 5 from `scale_decoder_outputs`.
    """
    kind = "UMT5" if config.bias_per_layer else "T5"
    activation = "gelu" if config.gated and config.activation == "gelu_new" else config.activation
    return {
        "architectures": [f"{kind}ForConditionalGeneration"],
        "model_type": kind.lower(),
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_kv": config.d_kv,
        "d_ff": config.d_ff,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": f"gated-{activation}" if config.gated else activation,
        "tie_word_embeddings": config.scale_logits,
        "scale_decoder_outputs": config.scale_logits,
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
        "dropout_rate": config.dropout,
        "dtype": dtype,
    }
