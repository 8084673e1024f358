"""The table of metrics, and what judges by it."""

import functools
from collections.abc import Mapping, Sequence

from prompt_jax.config import InputError, choose
from prompt_jax.metrics.classes import (
    accuracy,
    correlation,
    entity_f1,
    f1,
    grouped_match,
    macro_f1,
    matthews,
    micro_f1,
    tag_accuracy,
)
from prompt_jax.metrics.texts import (
    Metric,
    References,
    Texts,
    bleu,
    chrf,
    contains,
    exact_match,
    last_label,
    last_number,
    rouge,
    token_f1,
)

LESS_IS_BETTER = ("kl",)
"""Metrics of which the lowest is best."""


class Scores(dict[str, float]):
    """Metrics of some answers by name, and which of them decides.

    Args:
      deciding: the name of the metric that prompts are compared by.
    """

    def __init__(self, values: Mapping[str, float], deciding: str):
        super().__init__(values)
        self.deciding = deciding

    @property
    def score(self) -> float:
        """The deciding metric, turned round where less of it is better."""
        value = self[self.deciding]
        return -value if self.deciding in LESS_IS_BETTER else value


def measure(
    names: Sequence[str],
    predictions: Texts,
    references: References,
    labels: Texts = (),
    groups: Sequence[str] = (),
) -> Scores:
    """Metrics by name, of which the first one decides.

    Args:
      groups: of every row, what it has in common with those that it is judged together with.
    """
    for name in names:
        choose("metric", name, METRICS)
    scores = {name: METRICS[name](predictions, references, labels, groups) for name in names}
    return Scores(scores, deciding=names[0])


def _checked(metric: Metric) -> Metric:
    several = metric in (exact_match, contains, token_f1)

    @functools.wraps(metric)
    def checked(
        predictions: Texts,
        references: References,
        labels: Texts = (),
        groups: Sequence[str] = (),
    ) -> float:
        if not len(predictions) == len(references) > 0:
            raise InputError(
                f"a metric needs as many answers as references and at least one, got "
                f"{len(predictions)} and {len(references)}; give one answer a reference"
            )
        first = [r if isinstance(r, str) else r[0] for r in references]
        together = (groups,) if metric is grouped_match else ()
        return metric(predictions, references if several else first, labels, *together)

    return checked


_ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
METRICS: dict[str, Metric] = {
    name: _checked(metric)
    for name, metric in (
        ("accuracy", accuracy),
        ("f1", f1),
        ("grouped_match", grouped_match),
        ("macro_f1", macro_f1),
        ("micro_f1", micro_f1),
        ("exact_match", exact_match),
        ("contains", contains),
        ("last_number", last_number),
        ("last_label", last_label),
        ("token_f1", token_f1),
        ("bleu", bleu),
        ("chrf", chrf),
        *((kind, functools.partial(rouge, kind)) for kind in _ROUGES),
        ("matthews", matthews),
        *((kind, functools.partial(correlation, kind)) for kind in ("pearson", "spearman")),
        ("entity_f1", entity_f1),
        ("tag_accuracy", tag_accuracy),
    )
}
