"""How answers are judged: `METRICS[name](predictions, references, labels) -> float`.

BLEU and chrF are 0 to 100, as sacrebleu prints them; all others are 0 to 1.
"""

import collections
import functools
import re
import string
from collections.abc import Callable, Sequence

from prompt_jax.config import InputError, choose

Texts = Sequence[str]
Metric = Callable[..., float]


def accuracy(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The share of answers that are the reference, letter by letter."""
    return _mean(p.strip() == r.strip() for p, r in zip(predictions, references, strict=True))


def macro_f1(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The mean of the F1 of every class.

    The classes are the label words, or without them those of the references, which are predicted
    or referred to at least once: an answer outside of them is wrong and no class of its own.
    """
    from sklearn.metrics import f1_score

    seen = {*predictions, *references}
    classes = [label for label in labels or sorted(set(references)) if label in seen]
    truth, answers = list(references), list(predictions)
    return float(f1_score(truth, answers, labels=classes, average="macro", zero_division=0.0))


def exact_match(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The share of answers that are the reference after SQuAD's normalisation."""
    return _mean(normalize(p) == normalize(r) for p, r in zip(predictions, references, strict=True))


def token_f1(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """SQuAD's F1 over the bags of words of answer and reference, the mean over rows."""
    return _mean(_overlap(p, r) for p, r in zip(predictions, references, strict=True))


def bleu(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """Corpus BLEU of sacrebleu, 0 to 100."""
    import sacrebleu

    return sacrebleu.corpus_bleu(list(predictions), [list(references)]).score


def chrf(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """Corpus chrF2 of sacrebleu, 0 to 100."""
    import sacrebleu

    return sacrebleu.corpus_chrf(list(predictions), [list(references)]).score


def rouge(kind: str, predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The mean F1 of a ROUGE of stemmed words, as papers on summaries report it, but 0 to 1."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=True)
    pairs = zip(references, predictions, strict=True)
    return _mean(scorer.score(reference, answer)[kind].fmeasure for reference, answer in pairs)


def normalize(text: str) -> str:
    """SQuAD's normalisation: no case, punctuation, articles or surplus space."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def measure(
    names: Sequence[str], predictions: Texts, references: Texts, labels: Texts = ()
) -> dict[str, float]:
    """Metrics by name, in the order of `names`.

    Raises:
      InputError: an unknown name, no answers, or not as many answers as references.
    """
    for name in names:
        choose("metric", name, METRICS)
    return {name: METRICS[name](predictions, references, labels) for name in names}


def _overlap(prediction: str, reference: str) -> float:
    ours, theirs = normalize(prediction).split(), normalize(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    # 2PR / (P + R) with P = common / ours and R = common / theirs.
    return 2 * common / (len(ours) + len(theirs))


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def _checked(metric: Metric) -> Metric:
    @functools.wraps(metric)
    def checked(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
        if not len(predictions) == len(references) > 0:
            raise InputError(
                f"a metric needs as many answers as references and at least one, got "
                f"{len(predictions)} and {len(references)}; give one answer a reference"
            )
        return metric(predictions, references, labels)

    return checked


METRICS: dict[str, Metric] = {
    "accuracy": _checked(accuracy),
    "macro_f1": _checked(macro_f1),
    "exact_match": _checked(exact_match),
    "token_f1": _checked(token_f1),
    "bleu": _checked(bleu),
    "chrf": _checked(chrf),
    **{kind: _checked(functools.partial(rouge, kind)) for kind in ("rouge1", "rouge2", "rougeL")},
}
