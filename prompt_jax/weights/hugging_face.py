"""A folder in Hugging Face's format: config.json and weights in one of three formats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_jax.backbones import BACKBONES, Family, ModelConfig
from prompt_jax.backbones.config import end_ids
from prompt_jax.config import InputError, choose
from prompt_jax.weights.few_bits import Settings, unpacked
from prompt_jax.weights.mapping import TABLES, is_tied
from prompt_jax.weights.msgpack import open_msgpack, torch_name
from prompt_jax.weights.pickle import open_pickle
from prompt_jax.weights.safetensors import open_safetensors
from prompt_jax.weights.stored import (
    StoredTensor,
    damaged,
    float_dtype,
    parsing,
    read_json,
    unwrapped,
)

FORMATS: dict[str, Callable[[Path], dict[str, StoredTensor]]] = {
    "model.safetensors": open_safetensors,
    "pytorch_model.bin": open_pickle,
    "flax_model.msgpack": open_msgpack,
}
"""Files of weights, the preferred ones first; each may be shards behind `<name>.index.json`."""
MOVED = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
"""Fields of config.json that Transformers 5 writes into generation_config.json."""
ATTRIBUTES = ("", "model.", "transformer.")
"""What stands before every name where a model was an attribute of what was saved, as Lightning's
modules have it."""


def read_hugging_face(
    location: str, *, table_only: bool = False, **fields: Any
) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """The config and the weights of a folder.

    Args:
      location: the folder.
      table_only: opens none but the shard that has the embedding table; others may be missing.
      fields: of the config that are not the checkpoint's, such as dtype.

    Raises:
      InputError: no config.json or no weights, or a file that is damaged or of another model.
    """
    folder = Path(location)
    file = folder / "config.json"
    if not file.exists():
        raise InputError(f"{folder} has no config.json; give a Hugging Face or a T5X folder")
    values = _values(folder)
    with parsing(file, "the config of a supported model"):
        model_type = values.get("model_type", "t5")
        choose(f"model_type in {file}", model_type, BACKBONES)
        family = BACKBONES[model_type]
        stored = open_weights(folder, values.get("quantization_config"), table_only)
        tensors = _named(stored, family, model_type)
        untied = values.get("tie_word_embeddings") is False
        shape = family.told_by_weights(tensors, tied=is_tied(tensors, family), untied=untied)
        config = family.from_hugging_face(values, **shape, **fields)
    return config, tensors


def _named(
    stored: dict[str, StoredTensor], family: Family, model_type: str
) -> dict[str, StoredTensor]:
    """The weights under our names, also where the model was an attribute of another module.

    It is the name of the embedding table that tells.
    """
    for attribute in ATTRIBUTES:
        names = {name.removeprefix(attribute): tensor for name, tensor in stored.items()}
        tensors = family.canonical(names, model_type)
        if any(table in tensors for table in family.TABLES):
            return tensors
    return family.canonical(stored, model_type)


def _values(folder: Path) -> dict[str, Any]:
    """What config.json says, and what of it stands in generation_config.json alone."""
    values, file = read_json(folder / "config.json"), folder / "generation_config.json"
    writing = read_json(file) if file.exists() else {}
    moved = {name: writing[name] for name in MOVED if name in writing}
    # Instruct models have ends of an answer that only one of the two files names.
    return {**values, **moved, "eos_token_id": list(end_ids(values, writing))}


def open_weights(
    folder: Path, settings: Settings | None = None, table_only: bool = False
) -> dict[str, StoredTensor]:
    """The weights of a folder, in the first of `FORMATS` that it holds.

    Args:
      folder: of the model.
      settings: `quantization_config` of its config.json: how weights are stored in few bits.
      table_only: see `read_hugging_face`.

    Raises:
      InputError: there are none, or a file is damaged or missing, or the weights are in few bits
        and no settings say how.
    """
    tensors = unwrapped(_open_files(folder, table_only))
    if settings:
        tensors = unpacked(folder / "config.json", tensors, settings)
    for name, tensor in tensors.items():
        float_dtype(folder, name, tensor.dtype.name)
    return tensors


def _open_files(folder: Path, table_only: bool) -> dict[str, StoredTensor]:
    for name, open_file in FORMATS.items():
        if (folder / name).exists():
            return open_file(folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            return _open_shards(index, open_file, table_only)
    kept = sorted(path.name for path in folder.iterdir())
    raise InputError(
        f"{folder} has no weights; allowed: {', '.join(FORMATS)} or their shards with an "
        f"index.json; there are: {', '.join(kept)}"
    )


def places_of(index: Path) -> dict[str, str]:
    """The shard of every weight, as an index has it."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(f, str) for f in places.values()):
        raise damaged(index, "its weight_map should give a file name for every weight")
    return places


def _open_shards(index: Path, open_file: Callable, table_only: bool) -> dict[str, StoredTensor]:
    """All shards as one; the index and the shards must agree about every weight."""
    places = places_of(index)
    if table_only:
        shards = {shard for name, shard in places.items() if name.endswith(TABLES)}
        places = {name: shard for name, shard in places.items() if shard in shards}
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(places.values())):
        # A path in an index could lead to files outside of its folder.
        if Path(shard).name != shard:
            raise InputError(f"{index}: shard {shard!r} is not a plain file name in its folder")
        if not (index.parent / shard).exists():
            raise InputError(f"{index} names {shard}, which is not there; download it as well")
        tensors |= open_file(index.parent / shard)
    # The index of a Flax checkpoint has Flax's names.
    listed = {torch_name(name) for name in places}
    for name in sorted(listed ^ set(tensors)):
        where = "listed but in no shard" if name in listed else "in a shard but not listed"
        raise damaged(index, f"{name} is {where}")
    return tensors
