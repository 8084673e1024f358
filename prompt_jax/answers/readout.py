"""How a model gives an answer: what it learns from, what it runs, and how the result reads."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.data import Batch, encode_examples
from prompt_jax.data.tokens import Encoder
from prompt_jax.forward import PromptedModel
from prompt_jax.tasks import Example, Task
from prompt_jax.trees import Tokenizer

Program = Callable[[np.ndarray, np.ndarray, Sequence[str]], Any]
"""(tokens [B, T], mask [B, T], B texts) -> what the model gives to each row."""
Places = Sequence[np.ndarray]
"""Where the tokens of every text stand in it, [K, 2] each."""


class Candidates(NamedTuple):
    """Label words as tokens, for losses that look at all of them."""

    tokens: Int[Any, "C U"]
    """With EOS, padded on the right."""
    mask: Bool[Any, "C U"]


NO_CANDIDATES = Candidates(np.zeros((0, 0), np.int32), np.zeros((0, 0), bool))


class LossOptions(NamedTuple):
    """What `loss_fn` is asked for."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    objective: str = "tokens"
    candidates: Candidates = NO_CANDIDATES
    margin: float = 0.2
    divergence: str = "forward"
    temperature: float = 1.0


class Answers(NamedTuple):
    """What a model answers to N inputs."""

    predictions: list[str]
    scores: Float[np.ndarray, "N C"] | None = None
    """The log-likelihood of every candidate, as it was ranked; -inf where a row has fewer. None
    where nothing is ranked."""
    options: list[tuple[str, ...]] | None = None
    """The candidates of every input, that `scores` belong to."""
    apart: bool = False
    """Whether `scores` are log-probabilities that do not add up to one: of labels by themselves."""
    readings: "list[Reading] | None" = None
    """Of a head that reads tokens, for every input; None for other kinds."""


class Reading(NamedTuple):
    """What a head says of the tokens of an input."""

    scores: Float[np.ndarray, "R C"]
    """Log-probabilities: of every tag at every token, or of every token as an end of the span."""
    places: Int[np.ndarray, "K 2"]
    """Where the tokens stand in the text."""


def unknown_likelihood(answers: Answers, examples: Sequence[Example], task: Task) -> None:
    """Answers that do not tell how likely the right ones were."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Readout:
    """How a model gives one kind of answer in its own words; a `Head` has one that is trained."""

    loss: Callable[[PromptedModel, Batch, LossOptions], tuple[Float[Array, ""], Array]]
    """The mean loss of a batch, and the number of tokens or rows that it is over."""
    program: Callable[..., Program]
    """What a batch of texts is run through: `program(backbone, injection, task, data, eval)`."""
    answers: Callable[[Task, Tokenizer, list[Any], Sequence[str], Places], Answers]
    """Reads what the program gave for every text."""
    encode: Encoder = encode_examples
    """Examples as token ids and targets."""
    likelihood: Callable[[Answers, Sequence[Example], Task], float | None] = unknown_likelihood
    """The mean log-probability of what is right, in nats; None where `answers` do not tell."""
    located: bool = False
    """Whether answers stand at places of the text."""
    always: bool = False
    """Whether its loss is the only one that this kind of answer is trained by."""
    ahead: bool = False
    """Whether what all texts begin with may be read once, before them: no answer looks at it."""


def plain_head(head: "Head", method: MethodConfig, backbone: Backbone, task: Task) -> MethodConfig:
    """The method with a head for the task."""
    classes = head.classes(task)
    if method.num_labels not in (None, classes):
        raise InputError(
            f"num_labels is {method.num_labels} and task {task.name!r} has {classes} "
            f"{head.outputs}; leave num_labels out"
        )
    return dataclasses.replace(method, task_type=head.task_type, num_labels=classes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head(Readout):
    """How a trained head gives one kind of answer."""

    task_type: str
    """What PEFT calls its task."""
    logits: Callable[[PromptedModel, Any, Any], Array]
    """Compiled logits of texts, as a call of `PromptTuningModel` gives them."""
    label_loss: Callable[[Array, Any, Bool[np.ndarray, "B T"]], Array]
    """The mean loss of those logits on labels as PEFT takes them, and the mask of the texts."""
    size: int | None = None
    """C, the outputs of every such head; None has as many as the task has labels."""
    outputs: str = "label words"
    """What the outputs are called in errors."""
    configure: Callable[..., MethodConfig] = plain_head
    """A method with this head: `configure(head, method, backbone, task)`."""

    def classes(self, task: Task) -> int:
        """C, the outputs that a task needs."""
        return len(task.labels) if self.size is None else self.size
