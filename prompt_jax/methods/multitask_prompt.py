"""One prompt shared by several tasks, and what each makes of it.

`multiply` is MPT (Wang et al. 2023): the shared prompt times a low-rank factor of the task. `add`,
`concat`, `concat_features` and `project` are the ways of Google's prompt-tuning library, whose
shared prompt a wrong pattern left untrained; here both parts are in one tuned tree.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig, choose
from prompt_jax.config.checks import each_at_least_one
from prompt_jax.forward import Injection, TaskPrompts
from prompt_jax.methods.method import KEY, Leaves, PeftFormat, Stored, matrix, register_method
from prompt_jax.methods.prompt_tuning import PromptTuningConfig, plain_prompt
from prompt_jax.methods.virtual_tokens import (
    InputPrompt,
    peft_fields,
    peft_start,
    start_rows,
    unplaced,
)
from prompt_jax.trees import Tuned

Combine = Literal["multiply", "add", "concat", "concat_features", "project"]


@dataclass(frozen=True, kw_only=True)
class MultitaskPromptConfig(InputPrompt):
    """One prompt for several tasks, and what each task makes of it.

    `multiply` is MPT (Wang et al. 2023); the others are those of Google's library.
    """

    kind = "multitask_prompt"
    only_with = {"num_ranks": ("combine", "multiply")}

    num_tasks: int = 1
    """N, how many tasks; rows of a batch name theirs in `task_ids`."""
    num_ranks: int = 1
    """R, the rank of a task's factor, of `multiply`."""
    combine: Combine = "multiply"
    """How a task's own part meets the shared prompt."""

    def __post_init__(self):
        super().__post_init__()
        each_at_least_one(self, "num_tasks", "num_ranks")
        choose("combine", self.combine, get_args(Combine))
        if self.combine == "concat" and self.num_virtual_tokens < 2:
            raise InputError('combine="concat" needs num_virtual_tokens of at least 2, half each')


def init(
    config: MultitaskPromptConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> Tuned:
    """`prompt`, the shared part, and the tasks' own parts with N in front.

    Every combination starts at the shared prompt: a factor of one, a sum with zero, an identity.
    """
    rows = start_rows(config, backbone, key, start)
    tasks, virtual, width, rank = config.num_tasks, *rows.shape, config.num_ranks
    shared = virtual - virtual // 2
    match config.combine:
        case "multiply":
            # The first rank alone makes the factor one. The others have columns of zeros, which
            # get a gradient because `rows` is not zero.
            cols = jnp.zeros((tasks, virtual, rank)).at[:, :, 0].set(1.0)
            return {"prompt": rows, "cols": cols, "rows": jnp.zeros((tasks, rank, width)) + 1.0}
        case "add":
            return {"prompt": rows, "tasks": jnp.zeros((tasks, virtual, width))}
        case "concat":
            return {"prompt": rows[:shared], "tasks": jnp.stack([rows[shared:]] * tasks)}
        case "concat_features":
            features = rows[:, width // 2 :]
            return {"prompt": rows[:, : width // 2], "tasks": jnp.stack([features] * tasks)}
        case _:
            identity = jnp.eye(width)
            return {"prompt": rows, "tasks": jnp.stack([identity] * tasks)}


def bank(config: MultitaskPromptConfig, tuned: Tuned) -> Float[Array, "N P D"]:
    """The prompt of every task."""
    shared = tuned["prompt"]
    if config.combine == "multiply":
        factor = jnp.einsum("npr,nrd->npd", tuned["cols"], tuned["rows"])
        return jnp.broadcast_to(shared, factor.shape) * factor
    parts = tuned["tasks"]
    if config.combine == "project":
        return jnp.einsum("pd,nde->npe", shared, parts)
    same = jnp.broadcast_to(shared, (len(parts), *shared.shape))
    if config.combine == "add":
        return same + parts
    axis = 1 if config.combine == "concat" else 2
    return jnp.concatenate([same, parts], axis=axis)


def materialize(
    config: MultitaskPromptConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> TaskPrompts:
    """The prompts of all tasks, of which a batch takes its rows' (`for_tasks`)."""
    return TaskPrompts(bank(config, tuned), Injection())


def simplify(config: MultitaskPromptConfig, tuned: Tuned) -> tuple[MethodConfig, Tuned]:
    """The plain prompt of the only task; that of several tasks stays what it is."""
    if config.num_tasks > 1:
        return config, tuned
    return plain_prompt(config, bank(config, tuned)[0])


def of_task(
    config: MultitaskPromptConfig, tuned: Tuned, task: int
) -> tuple[PromptTuningConfig, Tuned]:
    """The plain prompt of one task among several."""
    if not 0 <= task < config.num_tasks:
        raise InputError(f"task must be 0 to {config.num_tasks - 1}, got {task}")
    return plain_prompt(config, bank(config, tuned)[task])


TENSORS = {"prompt": KEY, "cols": "prefix_task_cols", "rows": "prefix_task_rows"}


def obstacle(config: MultitaskPromptConfig, leaves: Leaves, model_type: str) -> str:
    """Why PEFT would run these prompts differently, and what to do."""
    if config.combine != "multiply":
        return (
            f'PEFT multiplies the shared prompt and a task\'s and this one has "{config.combine}"; '
            'train with combine="multiply", or save the prompt of each task alone'
        )
    return unplaced(config)


def write(
    config: MultitaskPromptConfig, leaves: Leaves, model_type: str
) -> tuple[dict[str, object], Leaves]:
    """PEFT's fields, and three tensors in the shapes that they have here."""
    fields = peft_fields(config, leaves["prompt"]) | {
        "num_ranks": config.num_ranks,
        "num_tasks": config.num_tasks,
        "prompt_tuning_init_state_dict_path": None,
        "prompt_tuning_init_task": 0,
    }
    return fields, {tensor: leaves[leaf] for leaf, tensor in TENSORS.items()}


def read(stored: Stored, model_type: str) -> tuple[MultitaskPromptConfig, Leaves]:
    """The method and its leaves."""
    stored.expect(TENSORS.values())
    if stored.submodules != 1:
        # PEFT trains both halves and its `generate` puts in the encoder's alone.
        raise InputError(
            f"{stored.config} has num_transformer_submodules {stored.submodules}, PEFT's default "
            "for T5: half of its prompts stand in the decoder's input, where none of ours do; "
            "train with num_transformer_submodules=1 in PEFT"
        )
    leaves = {leaf: stored.tensors[tensor] for leaf, tensor in TENSORS.items()}
    virtual, width = matrix(stored.weights, leaves["prompt"]).shape
    tasks, ranks = stored.whole("num_tasks", 1), stored.whole("num_ranks", 1)
    shapes = {"cols": (tasks, virtual, ranks), "rows": (tasks, ranks, width)}
    for name, shape in shapes.items():
        if leaves[name].shape != shape:
            raise stored.mismatch(
                f"{TENSORS[name]} is {list(leaves[name].shape)} and num_tasks {tasks}, num_ranks "
                f"{ranks} and {KEY} {[virtual, width]} make it {list(shape)}"
            )
    if stored.whole("num_virtual_tokens", virtual) != virtual:
        raise stored.mismatch(
            f"num_virtual_tokens is {stored.values['num_virtual_tokens']} and {KEY} has {virtual} "
            "rows"
        )
    method = MultitaskPromptConfig(
        num_virtual_tokens=virtual, num_tasks=tasks, num_ranks=ranks, **peft_start(stored)
    )
    return method, leaves


PEFT = PeftFormat("MULTITASK_PROMPT_TUNING", read, write, obstacle)
register_method(
    MultitaskPromptConfig,
    init=init,
    materialize=materialize,
    simplify=simplify,
    of_task=of_task,
    peft=PEFT,
)
