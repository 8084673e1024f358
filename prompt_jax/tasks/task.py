"""What a task is: two templates, the words that may answer, and how answers are judged."""

from dataclasses import dataclass

from prompt_jax.config import TASK_KINDS, InputError, choose


@dataclass(frozen=True, kw_only=True)
class Task:
    """How rows of one dataset become text, and how answers are judged."""

    name: str
    source: str
    """Template of the input; `{column}` stands for the text of a column."""
    target: str
    """Template of the target."""
    kind: str = ""
    """`classification` among label words; `generation` of a text; `tagging`, a tag for every word
    of the input; `span`, a part of the input. Empty is classification where there are labels, else
    generation."""
    labels: tuple[str, ...] = ()
    """The label words, or the tags; empty where an answer is any text."""
    values: tuple[tuple[str, str], ...] = ()
    """What rows write for a label word, and that word, e.g. ("0", "negative")."""
    metrics: tuple[str, ...] = ()
    """Names of metrics, the deciding one first; empty takes the defaults of the kind."""

    def __post_init__(self):
        kind = self.kind or ("classification" if self.labels else "generation")
        choose("task.kind", kind, TASK_KINDS)
        if kind == "classification" and not self.labels:
            raise InputError(
                f"task {self.name!r} is a classification and has no label words; set task.labels"
            )
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "metrics", self.metrics or _default_metrics(kind, self.labels))

    @property
    def choices(self) -> tuple[str, ...]:
        """The label words to choose the whole answer among; empty for other kinds."""
        return self.labels if self.kind == "classification" else ()


def _default_metrics(kind: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    if kind == "tagging" and all(tag == "O" or tag[:2] in ("B-", "I-") for tag in labels):
        return ("entity_f1", "tag_accuracy")
    return {
        "classification": ("accuracy", "macro_f1"),
        "generation": ("exact_match", "token_f1", "rougeL"),
        "tagging": ("tag_accuracy",),
        "span": ("token_f1", "exact_match"),
    }[kind]
