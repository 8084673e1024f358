"""Soft prompts that other tools save: AdapterHub's adapters, and TGIS and caikit.

What is read becomes fields of a `Prompt`. Pickles go through the reader that runs nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prompt_jax.config import InputError
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.methods.method import matrix
from prompt_jax.prompts.peft import ADAPTER_CONFIG, read_weights
from prompt_jax.weights.pickle import open_tensor

TENSORS = ("encoder.pt", "decoder.pt")
"""What TGIS and caikit put before a model's input, and before its target; a decoder-only model has
the second one alone."""
ADAPTERHUB_WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
ADAPTERHUB_ROWS = ".prompt_embedding.weight"
PLACEMENTS = {"prefix": "prefix", "prefix_after_bos": "after_bos"}
"""AdapterHub's `combine`, and what it is here."""


def has_tensors(folder: Path) -> bool:
    """Whether a folder holds a prompt as TGIS and caikit save it."""
    return any((folder / name).is_file() for name in TENSORS)


def read_tensors(folder: Path) -> dict[str, Any]:
    """The prompt of TGIS or caikit in a folder."""
    encoder, decoder = (folder / name for name in TENSORS)
    if not encoder.is_file():
        return _rows(_tensor(decoder), task_type="CAUSAL_LM")
    if not decoder.is_file():
        return read_tensor(encoder)
    before = {"prompt": _tensor(encoder), "decoder_prompt": _tensor(decoder)}
    shapes = [list(rows.shape) for rows in before.values()]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{encoder} is {shapes[0]} and {decoder.name} is {shapes[1]}; a prompt of both stacks "
            "has one shape here; give one of the two files as the prompt"
        )
    method = PromptTuningConfig(num_virtual_tokens=shapes[0][0], init="random", stack="both")
    return {"tuned": before, "method": method}


def read_tensor(file: Path) -> dict[str, Any]:
    """The prompt [P, D] that `torch.save` wrote as one tensor."""
    return _rows(_tensor(file))


def is_adapterhub(values: Mapping[str, object]) -> bool:
    """Whether an adapter_config.json without a `peft_type` is AdapterHub's."""
    return "config" in values or "model_class" in values


def read_adapterhub(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The prompt in a folder of `model.save_adapter`."""
    config = values.get("config")
    config = config if isinstance(config, dict) else {"architecture": config}
    kind = config.get("architecture") or "a bottleneck"
    if kind != "prompt_tuning":
        raise InputError(
            f"{folder / ADAPTER_CONFIG} is of AdapterHub's adapters, of architecture {kind!r}; "
            "allowed: prompt_tuning; train the adapter with PEFT, whose LoRA, IA3 and prefixes are "
            "read"
        )
    combine = config.get("combine", "prefix")
    if combine not in PLACEMENTS:
        raise InputError(
            f"{folder / ADAPTER_CONFIG} has combine {combine!r}; allowed: {', '.join(PLACEMENTS)}"
        )
    files = [folder / name for name in ADAPTERHUB_WEIGHTS if (folder / name).is_file()]
    if not files:
        raise InputError(
            f"{folder} is of AdapterHub's adapters and lacks its weights, "
            f"{' or '.join(ADAPTERHUB_WEIGHTS)}; copy it again"
        )
    tensors = {n: t for n, t in read_weights(files[0]).items() if n.endswith(ADAPTERHUB_ROWS)}
    if len(tensors) != 1:
        raise InputError(
            f"{files[0]} holds {len(tensors)} tensors whose names end in {ADAPTERHUB_ROWS}, and "
            "prompt_tuning has one; save the adapter again"
        )
    rows = matrix(files[0], *tensors.values())
    fields = _rows(rows, placement=PLACEMENTS[combine])
    return fields | {"backbone": str(values.get("model_name") or ""), "states_task": False}


def _tensor(file: Path) -> np.ndarray:
    return matrix(file, open_tensor(file).read().astype(np.float32))


def _rows(rows: np.ndarray, **options: Any) -> dict[str, Any]:
    method = PromptTuningConfig(num_virtual_tokens=len(rows), init="random", **options)
    return {"tuned": {"prompt": rows}, "method": method}
