"""The kinds of answers that a task may have."""

from typing import NamedTuple


class KindRow(NamedTuple):
    """What is known of a kind of answer before any row is read."""

    file: str
    """The file of `prompt_jax.answers` that has all the rest."""
    metrics: tuple[str, ...]
    """Names of the default metrics, the deciding one first."""
    needs: str = ""
    """What `labels` must hold, and an example; empty where they may be empty."""
    marks_text: bool = False
    """Whether an answer is about parts of the text, which then is no turn of a chat."""


KINDS = {
    "classification": KindRow("classes", ("accuracy", "macro_f1"), "label words"),
    "multi_label": KindRow("label_sets", ("micro_f1", "macro_f1", "accuracy"), "label words"),
    "generation": KindRow("written", ("exact_match", "token_f1", "rougeL")),
    "tagging": KindRow("tags", ("entity_f1", "tag_accuracy"), marks_text=True),
    "span": KindRow("spans", ("token_f1", "exact_match"), marks_text=True),
    "regression": KindRow("regression", ("pearson", "spearman")),
    "multiple_choice": KindRow(
        "multiple_choice", ("accuracy",), 'candidates, e.g. "{choice1}" "{choice2}" or "{endings}"'
    ),
    "referent": KindRow(
        "referents", ("accuracy",), 'the template of the referent, e.g. "{span1_text}"'
    ),
}
