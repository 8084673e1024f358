"""Metrics of label words, of numbers, and of tags."""

import collections
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from prompt_jax.config import InputError
from prompt_jax.metrics.texts import Texts, mean

SEVERAL = ", "
"""What parts the labels of an answer that has several."""


def accuracy(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The share of answers that are the reference, letter by letter."""
    return mean(p.strip() == r.strip() for p, r in zip(predictions, references, strict=True))


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
    return mean(right.values())


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
    return mean(tag == answer for tag, answer in pairs)


def _tagged(predictions: Texts, references: Texts) -> tuple[list[list[str]], list[list[str]]]:
    truth = [reference.split() for reference in references]
    answers = [
        (prediction.split() + ["O"] * len(tags))[: len(tags)]
        for prediction, tags in zip(predictions, truth, strict=True)
    ]
    return truth, answers


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0
