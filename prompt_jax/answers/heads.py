"""Which readout gives an answer: by the kind of a task, or by what a method says of its head."""

from prompt_jax.answers import words, written
from prompt_jax.answers.readout import Head, Readout
from prompt_jax.config import KINDS, MethodConfig
from prompt_jax.tasks.task import kind_module


def readout_of(kind: str) -> Readout:
    """How a model answers a kind of task in its own words: with a text, if with nothing else."""
    return getattr(kind_module(kind), "READOUT", written.READOUT)


def head_of(kind: str) -> Head | None:
    """The head that answers a kind of task; None where only words do."""
    return getattr(kind_module(kind), "HEAD", None)


def heads() -> dict[str, Head]:
    """Kind of task -> its head."""
    return {kind: head for kind in KINDS if (head := head_of(kind)) is not None}


def readout_for(method: MethodConfig, objective: str = "tokens") -> Readout:
    """What a method trains: its head, or the model's words."""
    if method.num_labels is None:
        return written.READOUT if objective == "tokens" else words.READOUT
    return head_for(method)


def head_for(method: MethodConfig) -> Head:
    """The head of a method that has one.

    A head of SEQ_CLS with one output is a regression, as in Transformers.
    """
    if method.task_type == "SEQ_CLS":
        kind = "regression" if method.num_labels == 1 else "classification"
        return kind_module(kind).HEAD
    return next(head for head in heads().values() if head.task_type == method.task_type)
