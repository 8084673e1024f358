"""A folder in Hugging Face's format: config.json and weights in one of three formats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_jax.backbones import BACKBONES, ModelConfig
from prompt_jax.backbones.config import end_ids
from prompt_jax.config import InputError, choose
from prompt_jax.weights.mapping import is_tied
from prompt_jax.weights.msgpack import open_msgpack, torch_name
from prompt_jax.weights.pickle import open_pickle
from prompt_jax.weights.safetensors import open_safetensors
from prompt_jax.weights.stored import StoredTensor, damaged, parsing, read_json, unwrapped

FORMATS: dict[str, Callable[[Path], dict[str, StoredTensor]]] = {
    "model.safetensors": open_safetensors,
    "pytorch_model.bin": open_pickle,
    "flax_model.msgpack": open_msgpack,
}
"""Files of weights, the preferred ones first; each may be shards behind `<name>.index.json`."""


def read_hugging_face(location: str, **fields: Any) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """The config and the weights of a folder.

    Args:
      location: the folder.
      fields: of the config that are not the checkpoint's, such as dtype.

    Raises:
      InputError: no config.json or no weights, or a file that is damaged or of another model.
    """
    folder = Path(location)
    file = folder / "config.json"
    if not file.exists():
        raise InputError(f"{folder} has no config.json; give a Hugging Face or a T5X folder")
    values = {**read_json(file), "eos_token_id": _ends(folder)}
    with parsing(file, "the config of a supported model"):
        model_type = values.get("model_type", "t5")
        choose(f"model_type in {file}", model_type, BACKBONES)
        family = BACKBONES[model_type]
        tensors = family.canonical(open_weights(folder), model_type)
        untied = values.get("tie_word_embeddings") is False
        shape = family.told_by_weights(tensors, tied=is_tied(tensors, family), untied=untied)
        config = family.from_hugging_face(values, **shape, **fields)
    return config, tensors


def _ends(folder: Path) -> list[int]:
    """Ends of an answer: instruct models have some that only one of two files names."""
    files = [folder / name for name in ("config.json", "generation_config.json")]
    return list(end_ids(*(read_json(file) for file in files if file.exists())))


def open_weights(folder: Path) -> dict[str, StoredTensor]:
    """The weights of a folder, in the first of `FORMATS` that it holds.

    Raises:
      InputError: there are none, or a file is damaged or missing.
    """
    for name, open_file in FORMATS.items():
        if (folder / name).exists():
            return unwrapped(open_file(folder / name))
        index = folder / f"{name}.index.json"
        if index.exists():
            return unwrapped(_open_shards(index, open_file))
    kept = sorted(path.name for path in folder.iterdir())
    raise InputError(
        f"{folder} has no weights; allowed: {', '.join(FORMATS)} or their shards with an "
        f"index.json; there are: {', '.join(kept)}"
    )


def _open_shards(index: Path, open_file: Callable) -> dict[str, StoredTensor]:
    """All shards as one; the index and the shards must agree about every weight."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(f, str) for f in places.values()):
        raise damaged(index, "its weight_map should give a file name for every weight")
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise InputError(f"{index}: shard {shard!r} is not a plain file name in its folder")
        if not (index.parent / shard).exists():
            raise InputError(f"{index} names {shard}, which is not there; download it as well")
        tensors |= open_file(index.parent / shard)
    listed = {torch_name(name) for name in places}
    for name in sorted(listed ^ set(tensors)):
        where = "listed but in no shard" if name in listed else "in a shard but not listed"
        raise damaged(index, f"{name} is {where}")
    return tensors
