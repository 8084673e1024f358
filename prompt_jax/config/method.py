"""What the configs of all methods have; field names are PEFT's wherever PEFT has the idea."""

from dataclasses import dataclass
from typing import Any, ClassVar

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
"""Those that may have a trained head."""
POOLINGS = ("cls", "peft")
METHOD_KINDS: dict[str, type["MethodConfig"]] = {}
"""The name of a method, as files and the command line have it, and its config."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What all methods have; a subclass that binds `kind` is a method."""

    kind: ClassVar[str]
    rates: ClassVar[dict[str, float]] = {"adamw": 1e-3, "adafactor": 1e-3}
    """Peak learning rates that serve the method, by optimizer; the first is the default."""
    only_with: ClassVar[dict[str, tuple[str, Any]]] = {}
    """Options that count only under one value of another; see `refuse_unread`. A saved prompt may
    have some, so that who starts a new one checks it."""
    placement: ClassVar[str] = "prefix"
    """Where virtual tokens stand, for methods that have some in the input."""

    task_type: str = "SEQ_2_SEQ_LM"
    """What the frozen model is asked to do; PEFT's names, in any case."""
    num_labels: int | None = None
    """C, the classes of a head that is trained beside the method; None has no head, and SEQ_CLS is
    then a cloze, whose label words fill the mask of the template. QUESTION_ANS always has two."""
    pooling: str = "cls"
    """What a head of SEQ_CLS reads: `cls`, the text's own first token (its last one in a decoder);
    `peft`, the first position (the last one) even where that is a virtual token, as PEFT does."""
    tokenizer_name_or_path: str | None = None
    """Accepted for PEFT's sake and written into the saved prompt; the backbone's is always used."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            METHOD_KINDS[cls.kind] = cls

    def __post_init__(self):
        if not self.task_type:
            raise InputError(
                f"task_type is empty; give one of {', '.join(TASK_TYPES)}: without it PEFT would "
                "load this prompt and ignore it"
            )
        object.__setattr__(self, "task_type", self.task_type.upper())
        choose("task_type", self.task_type, TASK_TYPES)
        choose("pooling", self.pooling, POOLINGS)
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
    def input_tokens(self) -> int:
        """P, how many positions the method adds to the input."""
        return 0


def each_at_least_one(config: MethodConfig, *names: str) -> None:
    """Checks fields that count something.

    Raises:
      InputError: one of them is below 1.
    """
    for name in names:
        at_least(name, getattr(config, name), 1)
