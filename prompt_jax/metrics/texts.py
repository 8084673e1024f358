"""Metrics of texts, whatever their script: no metric drops letters."""

import collections
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence

Texts = Sequence[str]
References = Sequence[str | tuple[str, ...]]
Metric = Callable[..., float]
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters: no spaces stand between their words."""

ARTICLE = re.compile(r"\b(a|an|the)\b")
NUMBER = re.compile(r"(?<!\d)-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")


def exact_match(predictions: Texts, references: References, labels: Texts = ()) -> float:
    """The share of answers that are a reference after SQuAD's normalisation."""
    return _nearest(lambda p, r: float(normalize(p) == normalize(r)), predictions, references)


def contains(predictions: Texts, references: References, labels: Texts = ()) -> float:
    """The share of answers in which a reference stands, after SQuAD's normalisation.

    An article alone, such as the choice A, has to stand there as it is written.
    """
    return _nearest(_stands_in, predictions, references)


def last_number(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The share of answers whose last number is that of the reference: 1,000.0 is 1000.

    For answers that reason first, as those of GSM8K.
    """
    pairs = zip(_last_numbers(predictions), _last_numbers(references), strict=True)
    return mean(truth is not None and answer == truth for answer, truth in pairs)


def last_label(predictions: Texts, references: Texts, labels: Texts = ()) -> float:
    """The share of answers that name the reference's label last, in whole words and any case.

    The labels are those of the task, or without them all references.
    """
    names = sorted(map(_spaced, labels or set(references)), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", re.IGNORECASE)
    last = [
        [next(reversed(pattern.findall(_spaced(text))), "").lower() for text in texts]
        for texts in (predictions, references)
    ]
    return mean(answer == truth != "" for answer, truth in zip(*last, strict=True))


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
    return mean(scorer.score(reference, answer)[kind].fmeasure for reference, answer in pairs)


class _Words:
    """What rouge_score calls a tokenizer: letters with their marks, and digits, are words."""

    def __init__(self):
        from nltk.stem import porter

        self._stem = porter.PorterStemmer().stem

    def tokenize(self, text: str) -> list[str]:
        text = _apart(unicodedata.normalize("NFC", text.lower()))
        words = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text).split()
        return [self._stem(word) if word.isascii() and len(word) > 3 else word for word in words]


def _spaced(text: str) -> str:
    """The words of a text, see `_apart`, with one space between any two."""
    return " ".join(_apart(text).split())


def _apart(text: str) -> str:
    """The text with every character of a script without spaces as a word, as papers count them."""
    return UNSPACED.sub(r" \g<0> ", text)


def normalize(text: str) -> str:
    """SQuAD's normalisation: no case, punctuation, articles or surplus space.

    A text of articles alone, such as the choice A, keeps them: nothing would be left of it.
    """
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(ARTICLE.sub(" ", text).split() or text.split())


def _stands_in(prediction: str, reference: str) -> float:
    truth, answer = (_spaced(normalize(text)) for text in (reference, prediction))
    if ARTICLE.fullmatch(truth):
        return float(bool(re.search(rf"(?<!\w){re.escape(reference.strip())}(?!\w)", prediction)))
    return float(f" {truth} " in f" {answer} ")


def _overlap(prediction: str, reference: str) -> float:
    predicted, expected = (_apart(normalize(text)).split() for text in (prediction, reference))
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    # 2PR / (P + R) with P = common / predicted and R = common / expected.
    return 2 * common / (len(predicted) + len(expected))


def _nearest(score: Metric, predictions: Texts, references: References) -> float:
    pairs = zip(predictions, references, strict=True)
    return mean(max(score(p, r) for r in ([r] if isinstance(r, str) else r)) for p, r in pairs)


def _last_numbers(texts: Texts) -> list[float | None]:
    # The sign for minus, which models write, is no hyphen.
    numbers = [NUMBER.findall(text.replace("\N{MINUS SIGN}", "-")) for text in texts]
    return [float(row[-1].replace(",", "")) if row else None for row in numbers]


def mean(values: Iterable[float]) -> float:
    """The mean of some numbers."""
    values = list(values)
    return sum(values) / len(values)
