"""One prompt shared by several tasks, and what each makes of it.

`multiply` is MPT (Wang et al. 2023): the shared prompt times a low-rank factor of the task. `add`,
`concat`, `concat_features` and `project` are the ways of Google's prompt-tuning library, whose
shared prompt a wrong pattern left untrained; here both parts are in one tuned tree.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MultitaskPromptConfig, PromptTuningConfig
from prompt_jax.forward import Injection, TaskPrompts
from prompt_jax.methods.p_tuning import plain_prompt
from prompt_jax.methods.prompt_tuning import start_rows


def init(
    config: MultitaskPromptConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> dict[str, Array]:
    """`prompt`, the shared part, and the tasks' own parts with N in front.

    Every combination starts at the shared prompt: a factor of one, a sum with zero, an identity.
    """
    rows = start_rows(config, backbone, key, start)
    tasks, virtual, width, rank = config.num_tasks, *rows.shape, config.num_ranks
    half = virtual // 2
    match config.combine:
        case "multiply":
            cols = jnp.zeros((tasks, virtual, rank)).at[:, :, 0].set(1.0)
            return {"prompt": rows, "cols": cols, "rows": jnp.zeros((tasks, rank, width)) + 1.0}
        case "add":
            return {"prompt": rows, "tasks": jnp.zeros((tasks, virtual, width))}
        case "concat":
            return {"prompt": rows[half:], "tasks": jnp.stack([rows[:half]] * tasks)}
        case "concat_features":
            own = rows[:, width // 2 :]
            return {"prompt": rows[:, : width // 2], "tasks": jnp.stack([own] * tasks)}
        case _:
            identity = jnp.eye(width)
            return {"prompt": rows, "tasks": jnp.stack([identity] * tasks)}


def bank(config: MultitaskPromptConfig, tuned: dict[str, Array]) -> Float[Array, "N P D"]:
    """The prompt of every task."""
    shared = tuned["prompt"]
    if config.combine == "multiply":
        factor = jnp.einsum("npr,nrd->npd", tuned["cols"], tuned["rows"])
        return jnp.broadcast_to(shared, factor.shape) * factor
    own = tuned["tasks"]
    if config.combine == "project":
        return jnp.einsum("pd,nde->npe", shared, own)
    same = jnp.broadcast_to(shared, (len(own), *shared.shape))
    if config.combine == "add":
        return same + own
    axis = 1 if config.combine == "concat" else 2
    return jnp.concatenate([same, own], axis=axis)


def materialize(
    config: MultitaskPromptConfig, tuned: dict[str, Array], key: Any = None
) -> TaskPrompts:
    """The prompts of all tasks, of which a batch takes its rows' (`for_tasks`)."""
    return TaskPrompts(bank(config, tuned), Injection())


def simplify(config: MultitaskPromptConfig, tuned: Any) -> tuple[Any, Any]:
    """The plain prompt of the only task; that of several tasks stays what it is."""
    if config.num_tasks > 1:
        return config, tuned
    return plain_prompt(config, bank(config, tuned)[0])


def of_task(config: MultitaskPromptConfig, tuned: Any, task: int) -> tuple[PromptTuningConfig, Any]:
    """The plain prompt of one task among several.

    Raises:
      InputError: there is no such task.
    """
    if not 0 <= task < config.num_tasks:
        raise InputError(f"task must be 0 to {config.num_tasks - 1}, got {task}")
    return plain_prompt(config, bank(config, tuned)[task])
