"""Which readout gives an answer: by the kind of a task, or by what a method says of its head."""

from prompt_jax.answers import distilled, words, written
from prompt_jax.answers.readout import Head, Readout
from prompt_jax.config import KINDS, InputError, MethodConfig
from prompt_jax.forward import Injection
from prompt_jax.tasks import Task
from prompt_jax.tasks.task import kind_module

IN_WORDS = {"tokens": written.READOUT, "distil": distilled.READOUT}
"""How the model's words are trained, by objective; the others are of label words."""


def readout_of(kind: str) -> Readout:
    """How a model answers a kind of task in its own words: with a text, if with nothing else."""
    return getattr(kind_module(kind), "READOUT", written.READOUT)


def head_of(kind: str) -> Head | None:
    """The head that answers a kind of task; None where only words do."""
    return getattr(kind_module(kind), "HEAD", None)


def heads() -> dict[str, Head]:
    """Kind of task -> its head."""
    return {kind: head for kind in KINDS if (head := head_of(kind)) is not None}


def readout_for(method: MethodConfig, objective: str = "tokens", kind: str = "") -> Readout:
    """What a method trains: its head, or the model's words.

    Args:
      kind: of the task, which decides where heads of one task type are trained by several losses.
    """
    if method.num_labels is not None:
        return (head_of(kind) if kind else None) or head_for(method)
    if kind and readout_of(kind).always:
        return readout_of(kind)
    return IN_WORDS.get(objective, words.READOUT)


def head_for(method: MethodConfig) -> Head:
    """The head of a method that has one: of its size where there is such, as of one number."""
    fitting = [head for head in heads().values() if head.task_type == method.task_type]
    return next((head for head in fitting if head.size == method.num_labels), fitting[0])


def readout_in(injection: Injection | None, task: Task) -> Readout:
    """How a model with an injection answers a task: by its head if it has one, else in words."""
    if injection is None or injection.head is None:
        return readout_of(task.kind)
    # A head on label words is one of classes, whatever the task calls them.
    head = head_of(task.kind) or heads()["classification"]
    classes = injection.head["out"]["kernel"].shape[-1]
    if classes != head.classes(task):
        raise InputError(
            f"the head has {classes} classes and task {task.name!r} has {head.classes(task)} "
            f"{head.outputs}; use the task that it was trained on, or set task.labels"
        )
    return head
