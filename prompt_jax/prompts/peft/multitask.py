"""MULTITASK_PROMPT_TUNING: the shared rows and every task's factors, as they are trained."""

from typing import Any

import numpy as np

from prompt_jax.config import InputError, MultitaskPromptConfig
from prompt_jax.prompts.peft import prompt
from prompt_jax.prompts.peft.files import KEY, Stored, matrix

TENSORS = {"prompt": KEY, "cols": "prefix_task_cols", "rows": "prefix_task_rows"}


def obstacle(method: MultitaskPromptConfig, arrays: dict[str, np.ndarray], model_type: str) -> str:
    """Why PEFT would run these prompts differently, and what to do."""
    if method.combine != "multiply":
        return (
            f'PEFT multiplies the shared prompt and a task\'s and this one has "{method.combine}"; '
            'train with combine="multiply", or save the prompt of each task alone'
        )
    return prompt.placement(method)


def write(
    method: MultitaskPromptConfig, arrays: dict[str, np.ndarray], model_type: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The config's own fields, and three tensors in the shapes that they have here."""
    fields = prompt.fields(method, arrays["prompt"]) | {
        "num_ranks": method.num_ranks,
        "num_tasks": method.num_tasks,
        "prompt_tuning_init_state_dict_path": None,
        "prompt_tuning_init_task": 0,
    }
    return fields, {theirs: arrays[ours] for ours, theirs in TENSORS.items()}


def read(stored: Stored) -> tuple[MultitaskPromptConfig, dict[str, np.ndarray], str]:
    """The method, its arrays, and no type of model.

    Raises:
      InputError: the prompts also stand in the decoder's input, or the shapes do not fit.
    """
    stored.expect(TENSORS.values())
    if stored.submodules != 1:
        # PEFT trains both halves and its `generate` puts in the encoder's alone.
        raise InputError(
            f"{stored.config} has num_transformer_submodules {stored.submodules}, PEFT's default "
            "for T5: half of its prompts stand in the decoder's input, where none of ours do; "
            "train with num_transformer_submodules=1 in PEFT"
        )
    arrays = {ours: stored.tensors[theirs] for ours, theirs in TENSORS.items()}
    virtual, width = matrix(stored.weights, arrays["prompt"]).shape
    tasks, ranks = stored.whole("num_tasks", 1), stored.whole("num_ranks", 1)
    wanted = {"cols": (tasks, virtual, ranks), "rows": (tasks, ranks, width)}
    for name, shape in wanted.items():
        if arrays[name].shape != shape:
            raise stored.mismatch(
                f"{TENSORS[name]} is {list(arrays[name].shape)} and num_tasks {tasks}, num_ranks "
                f"{ranks} and {KEY} {[virtual, width]} make it {list(shape)}"
            )
    if stored.whole("num_virtual_tokens", virtual) != virtual:
        raise stored.mismatch(
            f"num_virtual_tokens is {stored.values['num_virtual_tokens']} and {KEY} has {virtual} "
            "rows"
        )
    method = MultitaskPromptConfig(
        num_virtual_tokens=virtual, num_tasks=tasks, num_ranks=ranks, **prompt.start(stored)
    )
    return method, arrays, ""
