"""Writing prompts: a folder that PEFT loads, or a .npy; whole or not at all."""

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prompt_jax import disk
from prompt_jax.config import InputError, check_place, to_json
from prompt_jax.prompts.card import card
from prompt_jax.prompts.loading import (
    FORMAT,
    OWN_WEIGHTS,
    PROMPT_CONFIG,
    TRAINING_WEIGHTS,
    checksum,
    is_prompt,
)
from prompt_jax.prompts.peft import (
    ADAPTER_CONFIG,
    ADAPTER_PICKLE,
    ADAPTER_WEIGHTS,
    PeftFolder,
    adapter_files,
    obstacle,
)
from prompt_jax.prompts.prompt import Prompt, by_path

OWN_FILES = {
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ADAPTER_PICKLE,
    PROMPT_CONFIG,
    OWN_WEIGHTS,
    TRAINING_WEIGHTS,
    "README.md",
}


def save_prompt(
    folder: str | Path,
    prompt: Prompt | PeftFolder,
    *,
    overwrite: bool = False,
    section: str = "",
) -> Path:
    """Writes a prompt as a folder that `load_prompt` reads, and PEFT too where it can.

    What PEFT would run differently gets other file names, so that PEFT refuses it.

    Args:
      folder: appears whole or not at all.
      prompt: what to write; a `PeftFolder` stays one, of safetensors.
      section: ends the README.md of a `Prompt`.

    Raises:
      InputError: the folder exists, is no prompt, or cannot be written.
    """
    if isinstance(prompt, PeftFolder):
        files = _adapter(prompt.stored.values, prompt.stored.tensors)
        return _write_folder(Path(folder), files, overwrite)
    if obstacle(prompt):
        files = {OWN_WEIGHTS: safetensors_bytes(prompt.arrays)}
    else:
        files = _adapter(*adapter_files(prompt))
    readme = card(prompt) + section
    files |= {PROMPT_CONFIG: _json(describe(prompt)), "README.md": readme.encode()}
    if prompt.training is not None:
        files[TRAINING_WEIGHTS] = safetensors_bytes(by_path(prompt.training))
    return _write_folder(Path(folder), files, overwrite)


def _adapter(values: Mapping[str, object], tensors: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    return {
        ADAPTER_WEIGHTS: safetensors_bytes(tensors),
        ADAPTER_CONFIG: _json(values, sort_keys=True),
    }


def export_peft(
    folder: str | Path, prompt: Prompt | PeftFolder, *, overwrite: bool = False
) -> Path:
    """`save_prompt` that insists on PEFT.

    Raises:
      InputError: PEFT would run this prompt differently; or as `save_prompt`.
    """
    _insist("PEFT", prompt)
    return save_prompt(folder, prompt, overwrite=overwrite)


def export_prompt(
    prompt: Prompt | PeftFolder, path: str | Path, *, overwrite: bool = False
) -> Path:
    """Writes a prompt for other tools: `.npy` as Lester et al. released theirs, else PEFT's folder.

    Args:
      path: the ending `.npy` makes it a bare float32 array [P, D].
    """
    path = Path(path)
    if path.suffix != ".npy":
        return export_peft(path, prompt, overwrite=overwrite)
    _insist("a .npy file", prompt)
    if isinstance(prompt, PeftFolder):
        raise InputError(f"PEFT's {prompt.peft_type} has no rows, which a .npy file holds")
    rows = prompt.rows
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(f"{path} exists; choose another path or pass overwrite (--overwrite)")
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    with disk.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    disk.write(path, buffer.getvalue())
    return path


def describe(prompt: Prompt) -> dict[str, Any]:
    """prompt_jax_config.json: all of a prompt but its rows, sealed by a checksum."""
    trees = ("tuned", "training")
    fields = {f.name: getattr(prompt, f.name) for f in dataclasses.fields(prompt)}
    fields = {name: value for name, value in fields.items() if name not in trees}
    fields |= {"format": FORMAT, "digest": prompt.digest, "method": to_json(prompt.method)}
    fields["trained_as"] = prompt.trained_as and to_json(prompt.trained_as)
    fields["task"] = prompt.task and to_json(prompt.task)
    fields["tasks"] = [to_json(task) for task in prompt.tasks]
    if not prompt.method.rows_only and not obstacle(prompt):
        # PEFT's files do not say how a kernel's outputs are those of heads.
        fields["shapes"] = {path: leaf.shape for path, leaf in prompt.arrays.items()}
    # Through JSON and back, so that the checksum is of what will be read.
    fields = json.loads(json.dumps(fields))
    return fields | {"checksum": checksum(fields)}


def _insist(target: str, prompt: Prompt | PeftFolder) -> None:
    reason = "" if isinstance(prompt, PeftFolder) else obstacle(prompt)
    if reason:
        raise InputError(
            f"this prompt cannot be exported to {target}: {reason}; or keep the folder of "
            "save_prompt, which holds all prompts"
        )


def safetensors_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file, marked as PEFT marks its own."""
    import safetensors.numpy

    # safetensors wants the numbers of a tensor in row-major order.
    contiguous = {name: np.ascontiguousarray(leaf) for name, leaf in arrays.items()}
    return safetensors.numpy.save(contiguous, {"format": "pt"})


def _json(values: Mapping[str, object], *, sort_keys: bool = False) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=sort_keys) + "\n").encode()


def _write_folder(folder: Path, files: Mapping[str, bytes], overwrite: bool) -> Path:
    check_free(folder, overwrite)
    folder = folder.absolute()
    with disk.writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = disk.beside(folder)
        fresh.mkdir()
        try:
            for name, data in files.items():
                (fresh / name).write_bytes(data)
                disk.sync(fresh / name)
            # Before the name appears, so that no power cut leaves half a prompt.
            disk.sync(fresh)
            _swap(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def check_free(folder: Path, overwrite: bool) -> None:
    """Checks that a prompt may be written there."""
    check_place(folder)
    # `exists` is False of a link whose target is gone.
    if not (folder.exists() or folder.is_symlink()):
        return
    if not overwrite:
        raise InputError(f"{folder} exists; choose another folder or pass overwrite (--overwrite)")
    # Replacing deletes, so only what is plainly a prompt, or empty, is replaced.
    if not folder.is_dir() or (any(folder.iterdir()) and not is_prompt(folder)):
        raise InputError(f"{folder} exists and is no prompt; choose another folder")


def _swap(fresh: Path, folder: Path) -> None:
    """Puts `fresh` in the place of `folder`; files there that are not a prompt's move along."""
    if not folder.exists():
        os.rename(fresh, folder)
        return disk.sync(folder.parent)
    # A folder with content cannot be replaced by a rename, so the old one is renamed first.
    old = disk.beside(folder)
    os.rename(folder, old)
    try:
        os.rename(fresh, folder)
    except OSError:
        os.rename(old, folder)
        raise
    for entry in old.iterdir():
        if entry.name not in OWN_FILES:
            os.rename(entry, folder / entry.name)
    disk.sync(folder.parent)
    shutil.rmtree(old)
