"""A backbone as a folder in Hugging Face's format."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.quantised import check_whole
from prompt_jax.config import choose
from prompt_jax.weights.mapping import disassemble
from prompt_jax.weights.stored import FLOATS


def save_hugging_face(folder: str | Path, backbone: Backbone, *, dtype: str = "float32") -> Path:
    """Writes config.json, model.safetensors and the tokenizer, if there is one.

    Transformers' `from_pretrained(folder)` and `load_backbone(folder)` give the same model again.

    Raises:
      InputError: a dtype that is not floating, or weights that are held in few bits.
    """
    from safetensors.numpy import save_file

    choose("dtype", dtype, FLOATS)
    check_whole(backbone.params, "a folder in Hugging Face's format")
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
    text = json.dumps(backbone.family.to_hugging_face(backbone.config, dtype), indent=2) + "\n"
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
