"""What the configs of all methods have; field names are PEFT's wherever PEFT has the idea."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

from prompt_jax.config.checks import InputError, at_least, choose

TASK_TYPES = (
    "SEQ_2_SEQ_LM",
    "CAUSAL_LM",
    "SEQ_CLS",
    "TOKEN_CLS",
    "QUESTION_ANS",
    "FEATURE_EXTRACTION",
)
WITH_HEAD = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
"""The task types that may have a trained head."""
WRITES = ("SEQ_2_SEQ_LM", "CAUSAL_LM")
"""The task types of models that answer in words; the backbone says which of them it is."""
Pooling = Literal["cls", "peft"]
ChatPlace = Literal["system", "turn"]
Place = Literal["prefix", "after_bos", "suffix", ChatPlace]
IN_CHATS: tuple[ChatPlace, ...] = get_args(ChatPlace)
"""The placements inside a chat, which plain text does not have."""
PLACEMENTS: tuple[str, ...] = get_args(Place)


class Opening(NamedTuple):
    """The tokens that a chat template writes right before the text of a turn."""

    place: ChatPlace
    """Whose turn: the system's, or that of the first user."""
    tokens: tuple[int, ...]
    """Those that stand before every text."""
    tail: tuple[int, ...] = ()
    """Those behind them that a text may swallow: a line break joins one that the text begins with
    to a single token."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What all methods have; a subclass that binds `kind` is a method."""

    kind: ClassVar[str]
    rates: ClassVar[dict[str, float]] = {"adamw": 1e-3, "adafactor": 1e-3}
    """Peak learning rates that serve the method, by optimizer; the first is the default."""
    trains_words: ClassVar[bool] = False
    """Whether `rates` move rows like the word embeddings, and are for those of T5; see `rate`."""
    only_with: ClassVar[dict[str, tuple[str, object]]] = {}
    """Options that count only under one value of another; see `refuse_unread`. A saved prompt may
    have some, so that who starts a new one checks it."""
    rows_only: ClassVar[bool] = False
    """Whether a tuned tree is virtual tokens [P, D] and nothing else, so that trained ones can be
    stacked, averaged and read as words."""
    num_tasks: ClassVar[int | None] = None
    """N, where one tuned tree holds a prompt for each of several tasks."""

    task_type: str = "SEQ_2_SEQ_LM"
    """What the frozen model is asked to do; PEFT's names, in any case. To write, SEQ_2_SEQ_LM and
    CAUSAL_LM are one: it becomes that of the backbone."""
    num_labels: int | None = None
    """C, the classes of a head that is trained beside the method; None has no head, and SEQ_CLS is
    then a cloze, whose label words fill the mask of the template. QUESTION_ANS always has two."""
    pooling: Pooling = "cls"
    """What a head of SEQ_CLS reads: `cls`, the text's own first token (its last one in a decoder);
    `peft`, the first position (the last one) even where that is a virtual token, as PEFT does."""
    tokenizer_name_or_path: str | None = None
    """Accepted for PEFT's sake and written into the saved prompt; the backbone's is always used."""

    def __post_init__(self):
        if not self.task_type:
            raise InputError(
                f"task_type is empty; give one of {', '.join(TASK_TYPES)}: without it PEFT would "
                "load this prompt and ignore it"
            )
        object.__setattr__(self, "task_type", self.task_type.upper())
        choose("task_type", self.task_type, TASK_TYPES)
        choose("pooling", self.pooling, get_args(Pooling))
        self._check_head()

    def _check_head(self) -> None:
        if self.task_type == "QUESTION_ANS":
            object.__setattr__(self, "num_labels", 2)  # The first and the last token of the answer.
        if self.num_labels is not None:
            # One output is a regression, as in Transformers.
            at_least("num_labels", self.num_labels, 1 if self.task_type == "SEQ_CLS" else 2)
            choose("task_type with num_labels", self.task_type, WITH_HEAD)
        elif self.task_type == "TOKEN_CLS":
            raise InputError("TOKEN_CLS has a trained head: set num_labels to the number of tags")

    @property
    def place(self) -> Place:
        """Where virtual tokens stand, of methods that have some in the input."""
        return "prefix"

    def in_chats(self) -> "MethodConfig":
        """The method as it is trained on chats, where no placement is chosen."""
        return self

    def rate(self, optimizer: str, word_size: float) -> float:
        """The peak learning rate that serves the method on a backbone.

        The rates of `trains_words` are for word embeddings of size 1 or more, as those of T5 are.
        Where words are smaller a step of the same size is too long, and the rate falls with the
        square root of their size: 0.3 is 0.11 on SmolLM2, whose words have size 0.136.

        Args:
          optimizer: one without a rate of its own takes that of the first of `rates`.
          word_size: the root mean square of the word embeddings.
        """
        rate = self.rates.get(optimizer, next(iter(self.rates.values())))
        if not self.trains_words or word_size >= 1.0:
            return rate
        return float(f"{rate * word_size**0.5:.2g}")

    @property
    def input_tokens(self) -> int:
        """P, how many positions the method adds to the input."""
        return 0

    @property
    def virtual_axis(self) -> int | None:
        """The axis of every leaf along which virtual tokens stand, counted from the end.

        Trees that differ in this axis alone can be padded to one length; None where they cannot.
        """
        return None

    @property
    def start_file(self) -> str | None:
        """The saved prompt whose rows a tuned tree starts from; None where it starts otherwise."""
        return None


_KINDS: dict[str, type[MethodConfig]] = {}


def method_kinds() -> Mapping[str, type[MethodConfig]]:
    """The configs of all methods, by the names that files and the command line have for them.

    Methods stand above configs and register themselves, as Python's codecs do: the package's own
    are imported by name when one is first looked up.
    """
    importlib.import_module("prompt_jax.methods")
    return _KINDS


def add_kind(config: type[MethodConfig]) -> None:
    """Makes a method known by the `kind` of its config."""
    kind = config.__dict__.get("kind")
    if not kind:
        raise InputError(f'{config.__name__} binds no kind; name the method, e.g. kind = "lora"')
    # A notebook's cell that runs again defines the same class anew.
    holder = _KINDS.get(kind, config)
    if (holder.__module__, holder.__qualname__) != (config.__module__, config.__qualname__):
        raise InputError(f"{holder.__name__} has kind {kind!r} already; choose another")
    _KINDS[kind] = config


def default_method() -> MethodConfig:
    """What an experiment trains that names no method."""
    return method_kinds()["prompt_tuning"]()
