"""One task's prompt, out of those of several tasks that a multitask prompt holds."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int

from prompt_jax import methods
from prompt_jax.config import InputError
from prompt_jax.prompts.prompt import Prompt

TaskIds = int | str | Sequence[int] | np.ndarray | jax.Array
"""A task by its number or name, for all rows; or the number of every row's task, [B]."""


def task_names(prompt: Prompt) -> tuple[str, ...]:
    """What the tasks of a multitask prompt are called, in their order; none of any other prompt.

    One that does not know them, such as PEFT's, has their numbers.
    """
    count = prompt.trained_method.num_tasks
    if count is None:
        return ()
    names = _trained_on(prompt)
    return names if len(names) == count else tuple(map(str, range(count)))


def _trained_on(prompt: Prompt) -> tuple[str, ...]:
    if prompt.tasks:
        return tuple(task.name for task in prompt.tasks)
    data = prompt.recipe.get("data", {})
    return (data["task"], *data.get("mixture", ())) if "task" in data else ()


def of_task(prompt: Prompt, task: int | str | None = None) -> Prompt:
    """The prompt of one task, as if it had been trained alone.

    Args:
      task: its number from 0, or its name; None where the prompt has no tasks, or one.
    """
    number = task_numbers(prompt, task)
    method, count = prompt.method, prompt.method.num_tasks
    if number is None or count is None:
        return prompt
    index = int(number)
    plain, tuned = methods.of_task(method, prompt.tuned, index)
    recipe = dict(prompt.recipe)
    if len(_trained_on(prompt)) == count:
        recipe["data"] = {
            **recipe.get("data", {}),
            "task": _trained_on(prompt)[index],
            "mixture": (),
        }
    tasks = prompt.tasks or (prompt.task,) + (None,) * (count - 1)
    return dataclasses.replace(
        prompt,
        tuned=tuned,
        method=plain,
        training=None,
        trained_as=None,
        name=f"{prompt.name}-{index}" if prompt.name and count > 1 else prompt.name,
        task=tasks[index],
        tasks=(),
        metrics={},  # They are of all tasks.
        recipe=recipe,
    )


def task_numbers(
    prompt: Prompt, task_ids: TaskIds | None, rows: int | None = None
) -> Int[np.ndarray, "*B"] | None:
    """The number of the task that is meant, or those of every row; None of a prompt without tasks.

    Args:
      rows: B; None where one task is for all.
    """
    names = task_names(prompt)
    if not names:
        if task_ids is None:
            return None
        raise InputError(
            f"prompt {prompt.label!r} is the same for all tasks, and task {str(task_ids)[:50]} is "
            "named; leave out the task"
        )
    tasks = ", ".join(f"{i} ({name})" for i, name in enumerate(names) if name != str(i))
    tasks = tasks or f"0 to {len(names) - 1}"
    if task_ids is None:
        if len(names) == 1:
            return np.zeros((), np.int32)
        raise InputError(
            f"prompt {prompt.label!r} holds a prompt for each of {len(names)} tasks, and none is "
            f"named; give --task-id, or task_ids in Python: {tasks}"
        )
    numbers = np.asarray(_number(task_ids, names) if isinstance(task_ids, str) else task_ids)
    if numbers.dtype.kind not in "iu" or (numbers.shape not in ((), (rows,))):
        allowed = "one integer" if rows is None else f"one integer, or {rows} of them, one a row"
        raise InputError(
            f"a task is {allowed}, got {numbers.dtype} of shape {list(numbers.shape)}; tasks of "
            f"prompt {prompt.label!r}: {tasks}"
        )
    wrong = numbers[(numbers < 0) | (numbers >= len(names))]
    if wrong.size:
        raise InputError(
            f"prompt {prompt.label!r} has no task {str(task_ids)[:50]!r}; tasks: {tasks}"
        )
    return numbers.astype(np.int32)


def _number(task: str, names: Sequence[str]) -> int:
    """The number of a task by its name, or by its number in words; -1 where there is none."""
    if task in names:
        return names.index(task)
    return int(task) if task.isascii() and task.isdecimal() else -1
