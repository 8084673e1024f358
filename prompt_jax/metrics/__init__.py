"""How answers are judged: `METRICS[name](predictions, references, labels) -> float`.

BLEU and chrF are 0 to 100, as sacrebleu prints them; correlations are -1 to 1, all others 0 to 1.
A reference is a text, or a tuple of right answers: SQuAD's metrics take the nearest of them, all
others the first. `grouped_match` also takes which rows belong together. No metric drops letters,
whatever their script.
"""

from prompt_jax.metrics.classes import SEVERAL, fits, labels_of
from prompt_jax.metrics.table import METRICS, Scores, measure
from prompt_jax.metrics.texts import normalize

__all__ = ["METRICS", "SEVERAL", "Scores", "fits", "labels_of", "measure", "normalize"]
