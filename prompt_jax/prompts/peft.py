"""PEFT's prompt folder as bytes and back: adapter_config.json, adapter_model.safetensors, card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from prompt_jax.config import InputError, PromptTuningConfig, choose
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.weights.pickle import open_pickle
from prompt_jax.weights.safetensors import open_safetensors

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"
KEY = "prompt_embeddings"
# The version whose loader these folders were checked against; written so that readers can tell.
PEFT_VERSION = "0.21.2"

PEFT_TYPES = ("PROMPT_TUNING", "P_TUNING")
TASK_TYPES = ("SEQ_2_SEQ_LM", "CAUSAL_LM")
INITS: dict[str, Any] = {"RANDOM": "random", "SAMPLE_VOCAB": "vocab", "TEXT": "text"}


class Adapter(NamedTuple):
    """What an adapter_config.json says, as far as a prompt is concerned."""

    method: PromptTuningConfig
    backbone: str
    num_layers: int | None
    num_attention_heads: int | None


def obstacle(prompt: Prompt) -> str:
    """Why PEFT would run this prompt differently; empty when it would not."""
    if not isinstance(prompt.method, PromptTuningConfig):
        return f"no PEFT format is written for {prompt.method.kind} yet"
    if prompt.method.stack != "encoder":
        return f'PEFT reads the encoder\'s prompt only and this one is of "{prompt.method.stack}"'
    if prompt.method.placement != "prefix":
        return f'PEFT only places prompts at the front and this one is "{prompt.method.placement}"'
    if prompt.method.task_type not in TASK_TYPES:
        return f"PEFT wants a trained head beside a {prompt.method.task_type} prompt"
    return ""


def adapter_config(prompt: Prompt) -> dict[str, Any]:
    """The adapter_config.json of a prompt, every dimension filled in.

    `num_transformer_submodules` is 1, since PEFT reads only the encoder's half of T5's 2. The
    initialisation is called RANDOM, whatever it was: PEFT opens a tokenizer for the others.
    """
    return {
        "auto_mapping": None,
        "base_model_name_or_path": prompt.backbone or None,
        "inference_mode": True,
        "modules_to_save": None,
        "num_attention_heads": prompt.num_attention_heads,
        "num_layers": prompt.num_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(prompt.rows),
        "peft_type": "PROMPT_TUNING",
        "peft_version": PEFT_VERSION,
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "revision": None,
        "task_type": prompt.method.task_type,
        "token_dim": prompt.rows.shape[1],
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": prompt.method.tokenizer_name_or_path,
    }


def read_adapter(path: Path, values: Mapping[str, Any], rows: Float[np.ndarray, "N D"]) -> Adapter:
    """The meaning of an adapter_config.json; unknown keys are passed over, as PEFT does.

    Args:
      path: where `values` came from, for messages.
      values: the parsed file.
      rows: its tensor: PEFT keeps 2n rows for T5, of which it uses the first n.

    Raises:
      InputError: another adapter type or task, or numbers that do not fit the tensor.
    """
    choose(f"peft_type in {path}", values.get("peft_type"), PEFT_TYPES)
    task_type = values.get("task_type") or "SEQ_2_SEQ_LM"
    choose(f"task_type in {path}", task_type, TASK_TYPES)
    submodules = values.get("num_transformer_submodules") or 1 + (task_type == "SEQ_2_SEQ_LM")
    virtual = values.get("num_virtual_tokens") or len(rows) // submodules
    width = values.get("token_dim") or rows.shape[1]
    if len(rows) not in (virtual, 2 * virtual) or width != rows.shape[1]:
        raise InputError(
            f"{path} says {virtual} virtual tokens of width {width} and the tensor beside it is "
            f"{list(rows.shape)}; allowed are {virtual} or twice as many rows; save the folder "
            "again with PEFT"
        )
    text = values.get("prompt_tuning_init_text")
    # P-tuning has no such field: its rows came out of an encoder.
    init = INITS.get(values.get("prompt_tuning_init", "RANDOM"), "random")
    method = PromptTuningConfig(
        task_type=task_type,
        num_virtual_tokens=virtual,
        init=init if init != "text" or text else "random",
        init_text=text,
        tokenizer_name_or_path=values.get("tokenizer_name_or_path"),
    )
    name = values.get("base_model_name_or_path") or ""
    return Adapter(method, name, values.get("num_layers"), values.get("num_attention_heads"))


def weights(prompt: Prompt) -> dict[str, np.ndarray]:
    """The tensors of adapter_model.safetensors: one, as PEFT names it."""
    return {KEY: prompt.rows}


def read_weights(path: Path) -> Float[np.ndarray, "N D"]:
    """The rows in a .safetensors or .bin file, float32.

    Raises:
      InputError: the file is cut or damaged, or holds no prompt.
    """
    tensors = open_pickle(path) if path.suffix == ".bin" else open_safetensors(path)
    if KEY not in tensors:
        raise InputError(
            f"{path} holds no tensor {KEY!r}, only {', '.join(sorted(tensors)) or 'nothing'}; "
            "only prompt tuning and P-tuning folders are read"
        )
    # In float32 at once: NumPy itself does not count bfloat16 among the real numbers.
    return matrix(path, tensors[KEY].read().astype(np.float32))


def matrix(path: Path, array: np.ndarray) -> Float[np.ndarray, "N D"]:
    """The array as float32 rows.

    Raises:
      InputError: it is not two-dimensional and real.
    """
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise InputError(
            f"{path} holds {array.dtype} of shape {list(array.shape)}; a prompt is an array of "
            "real numbers [virtual tokens, width]"
        )
    return array.astype(np.float32)
