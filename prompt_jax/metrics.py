"""How answers are judged: `METRICS[name](predictions, references, labels) -> float`.

BLEU and chrF are 0 to 100, as sacrebleu prints them; correlations are -1 to 1, all others 0 to 1.
A reference is a text, or a tuple of right answers: SQuAD's metrics take the nearest of them, all
others the first. `grouped_match` also takes which rows belong together. No metric drops letters,
whatever their script.
"""

import collections
import functools
import math
import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from prompt_jax.config import InputError, choose

Texts = Sequence[str]
References = Sequence[str | tuple[str, ...]]
Metric = Callable[..., float]
SEVERAL = ", "
"""What parts the labels of an answer that has several."""
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters: no spaces stand between their words."""


LESS_IS_BETTER = ("kl",)


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


def accuracy(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The share of answers that are the reference, letter by letter."""
    return _mean(p.strip() == r.strip() for p, r in zip(predictions, references, strict=True))


def f1(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The F1 of the positive class, the second label word, as MRPC, QQP and MultiRC are judged by.

    An answer that is no label word counts as the other one than the reference.

    Raises:
      InputError: there are not two label words.
    """
    if len(labels) != 2:
        raise InputError(
            f"f1 is of the second of two label words, and there are {len(labels)}; use macro_f1, "
            "or name two in task.labels, the positive one last"
        )
    pairs = [(p if p in labels else None, r) for p, r in zip(predictions, references, strict=True)]
    positive = labels[1]
    right = sum(answer == truth == positive for answer, truth in pairs)
    wrong = sum(
        answer != truth and (answer is None or positive in (answer, truth))
        for answer, truth in pairs
    )
    return 2 * right / (2 * right + wrong) if right + wrong else 0.0


def grouped_match(
    predictions: Texts, references: Texts, labels: Texts = (), groups: Sequence[str] = ()
) -> float:
    """The share of groups whose rows are all right, as the answers to a question of MultiRC.

    Raises:
      InputError: rows do not say which ones belong together.
    """
    if len(groups) != len(references) or not all(groups):
        raise InputError(
            "grouped_match is of rows that belong together, as the answers to a question of "
            "MultiRC, and these do not say so; leave it out of task.metrics, or take rows of "
            "tfds:super_glue/multirc with their idx"
        )
    right: dict[str, bool] = {}
    for group, prediction, reference in zip(groups, predictions, references, strict=True):
        right[group] = right.get(group, True) and prediction.strip() == reference.strip()
    return _mean(right.values())


def macro_f1(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The mean of the F1 of every class.

    The classes are the label words, or without them those of the references, which are predicted
    or referred to at least once: an answer outside of them is wrong and no class of its own. An
    answer of a multi label has several.
    """
    right, wrong = _counts(predictions, references, labels)
    seen = right + wrong > 0
    if not seen.any():  # No row of a multi label has one.
        return 0.0
    return float(np.mean(2 * right[seen] / (2 * right[seen] + wrong[seen])))


def micro_f1(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The F1 of all labels of all rows together; of one label a row, about the accuracy."""
    right, wrong = (counts.sum() for counts in _counts(predictions, references, labels))
    return float(2 * right / (2 * right + wrong)) if right + wrong else 0.0


def _counts(
    predictions: Texts, references: Texts, labels: Texts
) -> tuple[Int[np.ndarray, " C"], Int[np.ndarray, " C"]]:
    """By class, how often it is right, and how often it is answered or missed wrongly."""
    classes = list(labels) or sorted(set(references))
    hits: collections.Counter[str] = collections.Counter()
    misses: collections.Counter[str] = collections.Counter()
    for prediction, reference in zip(predictions, references, strict=True):
        answer, truth = set(labels_of(prediction, labels)), set(labels_of(reference, labels))
        hits.update(answer & truth)
        misses.update(answer ^ truth)
    right, wrong = ([counter[label] for label in classes] for counter in (hits, misses))
    return np.array(right), np.array(wrong)


def labels_of(text: str, labels: Texts) -> list[str]:
    """The labels in an answer: itself, or several of a multi label."""
    return [text] if not labels or text in labels else [p for p in text.split(SEVERAL) if p]


def matthews(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """Matthews' correlation of classes, as CoLA is judged by; 0 where either side is constant."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(list(references), list(predictions)))


def correlation(kind: str, predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """Pearson's or Spearman's correlation of numbers; 0 where either side is constant.

    An answer that is no number counts as -1, as T5 judges STS-B.
    """
    from scipy import stats

    answers, truth = ([_number(text) for text in texts] for texts in (predictions, references))
    if len(set(answers)) < 2 or len(set(truth)) < 2:
        return 0.0
    return float({"pearson": stats.pearsonr, "spearman": stats.spearmanr}[kind](answers, truth)[0])


def entity_f1(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """Seqeval's F1 over the entities that tags B-, I- and O mark, as conlleval counts them.

    A prediction of too few tags goes on with O; what is beyond the reference is left out, and what
    is no such tag is O.
    """
    from seqeval.metrics import f1_score

    truth, answers = _tagged(predictions, references)
    for tag in sum(truth, []):
        if not _marks(tag):
            raise InputError(
                f"entity_f1 counts what B-, I- and O mark, got the tag {tag!r}; use tag_accuracy"
            )
    answers = [[tag if _marks(tag) else "O" for tag in row] for row in answers]
    zero: Any = 0
    return float(np.mean(f1_score(truth, answers, zero_division=zero)))


def _marks(tag: str) -> bool:
    return tag == "O" or tag[:2] in ("B-", "I-")


def fits(name: str, labels: Texts) -> bool:
    """Whether a metric can judge such labels: entities are counted where tags mark them."""
    return name != "entity_f1" or all(map(_marks, labels))


def tag_accuracy(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The share of words that have the right tag."""
    truth, answers = _tagged(predictions, references)
    pairs = zip(sum(truth, []), sum(answers, []), strict=True)
    return _mean(tag == answer for tag, answer in pairs)


def exact_match(predictions: Texts, references: References, labels: Texts = ()) -> float:
    """The share of answers that are a reference after SQuAD's normalisation."""
    return _nearest(lambda p, r: float(normalize(p) == normalize(r)), predictions, references)


def contains(predictions: Texts, references: References, labels: Texts = ()) -> float:
    """The share of answers in which a reference stands, after SQuAD's normalisation."""
    return _nearest(
        lambda p, r: float(f" {normalize(r)} " in f" {normalize(p)} "), predictions, references
    )


def last_number(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The share of answers whose last number is that of the reference: 1,000.0 is 1000.

    For answers that reason first, as those of GSM8K.
    """
    pairs = zip(_last_numbers(predictions), _last_numbers(references), strict=True)
    return _mean(truth is not None and answer == truth for answer, truth in pairs)


def last_label(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The share of answers that name the reference's label last, in whole words and any case.

    The labels are those of the task, or without them all references.
    """
    names = sorted(labels or set(references), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", re.IGNORECASE)
    last = [
        [next(reversed(pattern.findall(text)), "").lower() for text in texts]
        for texts in (predictions, references)
    ]
    return _mean(answer == truth != "" for answer, truth in zip(*last, strict=True))


def token_f1(predictions: Texts, references: References, labels: Texts = ()) -> float:
    """SQuAD's F1 over the bags of words of answer and reference, the mean over rows.

    A word of a script without spaces is a character, as in MLQA.
    """
    return _nearest(_overlap, predictions, references)


def bleu(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """Corpus BLEU of sacrebleu, 0 to 100."""
    import sacrebleu

    answers, truth = ([_apart(text) for text in texts] for texts in (predictions, references))
    return sacrebleu.corpus_bleu(answers, [truth]).score


def chrf(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """Corpus chrF2 of sacrebleu, 0 to 100."""
    import sacrebleu

    return sacrebleu.corpus_chrf(list(predictions), [list(references)]).score


def rouge(kind: str, predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The mean F1 of a ROUGE of stemmed words, as papers on summaries report it, but 0 to 1.

    Words are of any script; English ones are those of rouge_score, whose own rule drops all other
    letters.
    """
    from rouge_score import rouge_scorer

    if kind == "rougeLsum":  # It compares sentences, which stand on lines of their own.
        predictions, references = (
            [text.replace(" . ", " .\n") for text in texts] for texts in (predictions, references)
        )
    scorer = rouge_scorer.RougeScorer([kind], tokenizer=_Words())
    pairs = zip(references, predictions, strict=True)
    return _mean(scorer.score(reference, answer)[kind].fmeasure for reference, answer in pairs)


class _Words:
    """What rouge_score calls a tokenizer: letters with their marks, and digits, are words."""

    def __init__(self):
        from nltk.stem import porter

        self._stem = porter.PorterStemmer().stem

    def tokenize(self, text: str) -> list[str]:
        text = _apart(unicodedata.normalize("NFC", text.lower()))
        words = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text).split()
        return [self._stem(word) if word.isascii() and len(word) > 3 else word for word in words]


def _apart(text: str) -> str:
    """The text with every character of a script without spaces as a word, as papers count them."""
    return UNSPACED.sub(r" \g<0> ", text)


def normalize(text: str) -> str:
    """SQuAD's normalisation: no case, punctuation, articles or surplus space."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


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


def _overlap(prediction: str, reference: str) -> float:
    predicted, expected = (_apart(normalize(text)).split() for text in (prediction, reference))
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    # 2PR / (P + R) with P = common / predicted and R = common / expected.
    return 2 * common / (len(predicted) + len(expected))


def _nearest(score: Metric, predictions: Texts, references: References) -> float:
    pairs = zip(predictions, references, strict=True)
    return _mean(max(score(p, r) for r in ([r] if isinstance(r, str) else r)) for p, r in pairs)


def _tagged(predictions: Texts, references: Texts) -> tuple[list[list[str]], list[list[str]]]:
    truth = [reference.split() for reference in references]
    answers = [
        (prediction.split() + ["O"] * len(tags))[: len(tags)]
        for prediction, tags in zip(predictions, truth, strict=True)
    ]
    return truth, answers


def _last_numbers(texts: Texts) -> list[float | None]:
    numbers = [re.findall(r"(?<!\d)-?\d[\d,]*(?:\.\d+)?", text) for text in texts]
    return [float(row[-1].replace(",", "")) if row else None for row in numbers]


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


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
