"""PROMPT_TUNING, and P_TUNING, whose files hold what its encoder wrote: one tensor of rows."""

from typing import Any

import numpy as np

from prompt_jax.config import InputError, PromptTuningConfig
from prompt_jax.config.prompts import InputPrompt
from prompt_jax.prompts.peft.files import AGAIN, KEY, Stored, matrix


def obstacle(method: PromptTuningConfig, arrays: dict[str, np.ndarray], model_type: str) -> str:
    """Why PEFT would run this prompt differently, and what to do."""
    if method.stack != "encoder":
        return (
            f'PEFT reads the encoder\'s prompt only and this one is of "{method.stack}"; train '
            'with stack="encoder"'
        )
    return placement(method)


def placement(method: InputPrompt) -> str:
    """Why a prompt in the input stands where PEFT does not place it."""
    if method.placement == "prefix":
        return ""
    return (
        f'PEFT only places prompts at the front and this one is "{method.placement}"; train with '
        'placement="prefix"'
    )


def write(
    method: PromptTuningConfig, arrays: dict[str, np.ndarray], model_type: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The config's own fields, and the rows."""
    rows = arrays["prompt"]
    return fields(method, rows), {KEY: rows}


def fields(method: InputPrompt, rows: np.ndarray) -> dict[str, Any]:
    """The fields of all prompts in the input.

    `num_transformer_submodules` is 1, since PEFT reads only the encoder's half of T5's 2. The
    initialisation is called RANDOM, whatever it was: PEFT opens a tokenizer for the others.
    """
    return {
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(rows),
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "token_dim": rows.shape[1],
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": method.tokenizer_name_or_path,
    }


def read(stored: Stored) -> tuple[PromptTuningConfig, dict[str, np.ndarray], str]:
    """The method, its rows, and no type of model.

    PEFT keeps 2n rows for T5, of which it uses the first n.
    """
    stored.expect([KEY])
    rows = matrix(stored.weights, stored.tensors[KEY])
    virtual = stored.whole("num_virtual_tokens", max(len(rows) // stored.submodules, 1))
    width = stored.whole("token_dim", rows.shape[1])
    if len(rows) not in (virtual, 2 * virtual) or width != rows.shape[1]:
        raise InputError(
            f"{stored.config} says {virtual} virtual tokens of width {width} and the tensor beside "
            f"it is {list(rows.shape)}; allowed are {virtual} or twice as many rows; {AGAIN}"
        )
    method = PromptTuningConfig(num_virtual_tokens=virtual, **start(stored))
    return method, {"prompt": rows[:virtual]}, ""


INITS = {"RANDOM": "random", "SAMPLE_VOCAB": "vocab", "TEXT": "text"}


def start(stored: Stored) -> dict[str, Any]:
    """Where the rows began; P-tuning does not say: its rows came from an encoder."""
    text = stored.values.get("prompt_tuning_init_text")
    init = INITS.get(str(stored.values.get("prompt_tuning_init")), "random")
    return {
        "init": init if init != "text" or text else "random",
        "init_text": text,
        "tokenizer_name_or_path": stored.values.get("tokenizer_name_or_path"),
    }
