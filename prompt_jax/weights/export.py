"""A backbone as a folder in Hugging Face's format."""

import json
import tempfile
from pathlib import Path

from prompt_jax import disk
from prompt_jax.backbones import Backbone
from prompt_jax.backbones.quantised import check_whole
from prompt_jax.config import choose
from prompt_jax.weights.mapping import disassemble
from prompt_jax.weights.stored import FLOATS


def save_hugging_face(folder: str | Path, backbone: Backbone, *, dtype: str = "float32") -> Path:
    """Writes config.json, model.safetensors and the tokenizer, if there is one.

    Transformers' `from_pretrained(folder)` and `load_backbone(folder)` give the same model again.

    Raises:
      InputError: a dtype that is not floating, weights that are held in few bits, or a folder that
        cannot be written.
    """
    from safetensors.numpy import save_file

    choose("dtype", dtype, FLOATS)
    check_whole(backbone.params, "a folder in Hugging Face's format")
    folder = Path(folder)
    with disk.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: values.astype(FLOATS[dtype])
        for name, values in disassemble(backbone.params, backbone.config).items()
    }
    with disk.replacing(folder / "model.safetensors") as fresh:
        # Marks names and orientation as torch's, which Transformers looks for.
        save_file(tensors, fresh, metadata={"format": "pt"})
    # After the weights: a folder that was cut short has no config.json and is no model.
    text = json.dumps(backbone.family.to_hugging_face(backbone.config, dtype), indent=2) + "\n"
    disk.write(folder / "config.json", text)
    if backbone.tokenizer is not None:
        # Transformers writes in place, so it writes elsewhere first.
        with tempfile.TemporaryDirectory() as fresh:
            backbone.tokenizer.save_pretrained(fresh)
            for path in Path(fresh).iterdir():
                disk.write(folder / path.name, path.read_bytes())
    return folder
