"""From the name of a backbone to the folder that holds it."""

import difflib
import importlib.resources
import re
from collections.abc import Sequence
from pathlib import Path

from prompt_jax.backbones import PRESETS
from prompt_jax.config import InputError
from prompt_jax.weights.gguf import is_gguf
from prompt_jax.weights.hugging_face import places_of
from prompt_jax.weights.mapping import TABLES

SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
"""The configs, the tokenizer and its chat template."""
WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*", "flax_model*.msgpack*")
"""Formats in order of preference; only the first that a repository holds is downloaded."""
INDEX = "model.safetensors.index.json"
GGUF_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+/[\w.-]+\.gguf")
"""A file of a repository, which often has one for every quantisation."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def locate(name: str, revision: str | None, token: str | None, *, table_only: bool = False) -> str:
    """The folder of a backbone: of the package, on disk, in a bucket, or downloaded from the hub.

    Args:
      name: as for `load_backbone`, as are `revision` and `token`.
      revision: of a hub id.
      token: for private repositories.
      table_only: downloads of a model in shards the one that has the embedding table.

    Raises:
      InputError: there is no such backbone.
    """
    if name == "embedded":
        return str(importlib.resources.files("prompt_jax") / "assets" / "t5")
    if name.startswith("gs://"):
        return name
    place = Path(name).expanduser()
    if place.is_dir():
        return str(_only_gguf(place) or place)
    if is_gguf(place):
        return str(place)
    if GGUF_ID.fullmatch(name):
        repository, _, file = name.rpartition("/")
        place = Path(_download(name, repository, revision, token, (file,)), file)
        if not is_gguf(place):
            raise InputError(f"{repository} on the Hugging Face hub has no {file}")
        return str(place)
    if not HUB_ID.fullmatch(name) or Path(name).exists():
        raise InputError(f"no folder {name!r}. {_allowed(name)}")
    formats = WEIGHTS
    if table_only:
        index = Path(_download(name, name, revision, token, (INDEX,)), INDEX)
        places = places_of(index) if index.exists() else {}
        shards = {shard for weight, shard in places.items() if weight.endswith(TABLES)}
        formats = tuple(shards) if len(shards) == 1 else WEIGHTS
    return _download(name, name, revision, token, formats)


def _only_gguf(folder: Path) -> Path | None:
    """The .gguf file of a folder that has no weights in another format.

    Raises:
      InputError: there are several.
    """
    files = sorted(folder.glob("*.gguf"))
    if not files or any(next(folder.glob(weights), None) for weights in WEIGHTS):
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(f"{folder} has several .gguf files ({names}); name one of them")
    return files[0]


def _download(
    name: str, repository: str, revision: str | None, token: str | None, formats: Sequence[str]
) -> str:
    """The snapshot of a repository, from the local cache where it is complete or nothing else is.

    Args:
      name: what was asked for, for errors.
      repository: its id on the hub.
      revision: of it.
      token: for private repositories.
      formats: patterns of files, of which the first that is there is enough.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    folder = ""
    try:
        for weights in formats:
            patterns = [*SMALL_FILES, weights]
            folder = huggingface_hub.snapshot_download(
                repository, revision=revision, token=token, allow_patterns=patterns
            )
            if next(Path(folder).glob(weights), None):
                break
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        at = f" at revision {revision!r}" if revision else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"unknown backbone {name!r}{at}: not a folder here, and not to be had from the "
            f"Hugging Face hub ({reason}). {_allowed(name)}"
        ) from error
    return folder


def _allowed(name: str) -> str:
    # t5-small is no misspelt t5_1_1_small, whose weights are random.
    near = difflib.get_close_matches(name, ["embedded", *PRESETS], n=1, cutoff=0.8)
    hint = f"Perhaps you meant {near[0]!r}? " if near else ""
    return (
        f"{hint}Allowed: embedded; random models {', '.join(PRESETS)}; a folder in Hugging Face's "
        f"format; a .gguf file; a T5X checkpoint folder, on disk or gs://...; a hub id such as "
        f"google/t5-v1_1-base or owner/name/file.gguf (offline: one that "
        "is in the cache; private: with a token)"
    )
