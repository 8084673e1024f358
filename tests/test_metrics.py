"""Metrics against figures worked out by hand, and against what the libraries document."""

import numpy as np
import pytest

from prompt_jax.config import METRICS as NAMES
from prompt_jax.config import InputError
from prompt_jax.metrics import METRICS, measure, normalize
from prompt_jax.metrics.texts import _Words


def test_every_name_of_the_config_has_its_metric():
    assert tuple(METRICS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_answer_has_the_best_figure(name):
    texts = ["the cat sat on a mat", "dogs bark at night in town"]
    texts = {
        "entity_f1": ["B-X I-X O", "B-Y O"],
        **dict.fromkeys(("pearson", "spearman"), "12"),
        "last_number": ["so 12", "thus 3,000.0"],
    }.get(name, texts)
    best = 100 if name in ("bleu", "chrf") else 1
    assert METRICS[name](texts, texts, texts, texts) == pytest.approx(best)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_answer_has_the_worst(name):
    truth = "B-X" if name == "entity_f1" else "cat"
    assert METRICS[name](["xyz"], [truth], ("xyz", truth), ["group"]) == 0


def test_accuracy_is_letter_by_letter():
    assert METRICS["accuracy"](["a", " b ", "C"], ["a", "b", "c"]) == pytest.approx(2 / 3)


def test_macro_f1_weighs_classes_alike():
    truth = ["a", "a", "a", "b"]
    # F1 of a is 2*3/(3+4), of b 0.
    assert METRICS["macro_f1"](["a"] * 4, truth) == pytest.approx((6 / 7 + 0) / 2)


def test_f1_of_several_labels_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    labels = ("a", "b", "c, d")
    generator = np.random.default_rng(0)
    truth, answers = (generator.random((2, 20, 3)) < 0.4).astype(int)
    texts = [
        [", ".join(np.array(labels)[:2][row[:2] > 0]) for row in rows] for rows in (answers, truth)
    ]
    for name in ("micro", "macro"):
        expected = f1_score(truth[:, :2], answers[:, :2], average=name)
        assert METRICS[f"{name}_f1"](*texts, labels[:2]) == pytest.approx(expected)
    # Of one label a row, a label word may hold a comma.
    assert METRICS["micro_f1"](["c, d", "a", "b"], ["c, d", "b", "b"], labels) == 2 / 3
    assert METRICS["micro_f1"]([""], [""], labels) == 0.0


def test_f1_of_rows_without_a_label_is_zero():
    for name in ("macro_f1", "micro_f1"):
        assert METRICS[name](["", ""], ["", ""], ("a", "b")) == 0.0


def test_macro_f1_takes_an_answer_outside_the_classes_as_wrong():
    found = METRICS["macro_f1"](["a", "b", "junk"], ["a", "b", "b"], ("a", "b", "never"))
    assert found == pytest.approx((1 + 2 / 3) / 2)


def test_exact_match_ignores_case_articles_and_punctuation():
    predictions = ["The  Cat.", "a cat", "cats"]
    assert METRICS["exact_match"](predictions, ["cat"] * 3) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "answer", "reference", "right"),
    [
        ("contains", "It is the Red cat.", "red cat", True),
        ("contains", "It is a redcat.", "cat", False),
        ("last_number", "3 and 4, so -1,007.50.", "#### -1007.5", True),
        ("last_number", "7, not 8", "7", False),
        ("last_number", "from 3-4", "4", True),
        ("last_number", "none", "none", False),
        ("last_label", "Not bad, rather GOOD.", "good", True),
        ("last_label", "good, or not good: bad", "good", False),
        ("last_label", "goodness", "good", False),
        ("contains", "答案是巴黎。", "巴黎", True),
        ("contains", "คำตอบคือปารีส", "ปารีส", True),
        ("contains", "The answer is A.", "A", True),
        ("contains", "It is a cat.", "A", False),
        ("exact_match", "", "A", False),
        ("last_label", "这部电影的情感是积极", "积极", True),
        ("last_label", "消极？不，是good。", "good", True),
        ("last_number", "The share is .5", "0.5", True),
        ("last_number", "So x = \N{MINUS SIGN}5", "-5", True),
        ("last_number", "1.5e3", "1500", True),
        ("last_number", "1.5e3", "3", False),
    ],
)
def test_the_answer_at_the_end_of_a_reasoning(name, answer, reference, right):
    assert METRICS[name]([answer], [reference], ("good", "bad", "消极", "积极")) == right


def test_token_f1_counts_shared_words():
    # Two shared words: P = 2/3, R = 2/2 -> 0.8; and no word at all on both sides.
    assert METRICS["token_f1"](["big red cat", "."], ["red cat", ""]) == pytest.approx(0.9)
    assert METRICS["token_f1"](["red red cat"], ["red"]) == pytest.approx(0.5)
    assert METRICS["token_f1"](["the"], ["cat"]) == 0


def test_normalize():
    assert normalize("  The U.S.  of an A, theatre! ") == "us of theatre"
    assert normalize("A.") == "a"


def test_rouge_by_hand():
    # "cats" and "cat" have one stem: 2 of 3 words shared, 1 of 2 bigrams, and in order.
    pair = (["cats sat down"], ["cat sat up"])
    assert METRICS["rouge1"](*pair) == pytest.approx(2 / 3)
    assert METRICS["rouge2"](*pair) == pytest.approx(1 / 2)
    assert METRICS["rougeL"](*pair) == pytest.approx(2 / 3)
    assert METRICS["rougeL"](["b a"], ["a b"]) == pytest.approx(1 / 2)


def test_correlations_by_hand():
    # Deviations -1.5, -.5, .5, 1.5 and -2, 0, -1, 3: 3 + 0 - .5 + 4.5 over the root of 5 * 14.
    assert METRICS["pearson"]("1234", "0215") == pytest.approx(7 / 70**0.5)
    # Ranks 1, 2, 3, 4 and 1, 3, 2, 4: 1 - 6 * 2 / (4 * 15).
    assert METRICS["spearman"]("1234", "0215") == pytest.approx(0.8)
    assert METRICS["spearman"](["1", "none", "3"], "213") == METRICS["spearman"](
        ["1", "-1", "3"], "213"
    )
    assert METRICS["pearson"]("111", "123") == 0


def test_matthews_by_hand():
    # Two true positives, one false negative, one true negative: 2 / sqrt(2 * 3 * 1 * 2).
    pair = (["y", "y", "n", "n"], ["y", "y", "y", "n"])
    assert METRICS["matthews"](*pair) == pytest.approx(2 / 12**0.5)


def test_entities_count_whole():
    truth = ["B-PER I-PER O B-LOC", "O O"]
    # One of two entities found, and one of the two that were answered: half of each.
    assert METRICS["entity_f1"](["B-PER I-PER O O", "O B-LOC"], truth) == pytest.approx(0.5)
    # One that is cut short is none: P = 1/2, R = 1/2.
    assert METRICS["entity_f1"](["B-PER O O B-LOC", "O O"], truth) == pytest.approx(0.5)
    assert METRICS["tag_accuracy"](["B-PER O O B-LOC", "O O"], truth) == pytest.approx(5 / 6)
    # A writer may stop early or go on: what lacks is O.
    assert METRICS["entity_f1"](["B-PER I-PER", "O O B-LOC"], truth) == pytest.approx(2 / 3)
    assert METRICS["entity_f1"](["O"], ["O"]) == 0
    with pytest.raises(InputError, match="got the tag 'NOUN'; use tag_accuracy"):
        METRICS["entity_f1"](["O"], ["NOUN"])


def test_the_nearest_of_several_answers_counts():
    references = [("the red cat", "cat"), ("dog",)]
    assert METRICS["exact_match"](["cat", "dogs"], references) == 0.5
    # "red cat" and "red cat" without its article are one; nothing of "dogs" is right.
    assert METRICS["token_f1"](["red cat", "dogs"], references) == 0.5
    assert METRICS["accuracy"](["cat", "dog"], references) == 0.5


def test_bleu_is_of_the_corpus_and_not_the_mean():
    predictions = ["one two three four five", "six"]
    references = ["one two three four five", "seven"]
    # n-gram precisions 5/6, 4/4, 3/3, 2/2 and no brevity penalty.
    assert METRICS["bleu"](predictions, references) == pytest.approx(100 * (5 / 6) ** 0.25)


def test_chrf_lies_between():
    assert 40 < METRICS["chrf"](["the cats sit"], ["the cat sits"]) < 90


def test_measure_keeps_the_order_of_the_names():
    figures = measure(("macro_f1", "accuracy"), ["a", "b"], ["a", "a"], ("a", "b"))
    assert list(figures) == ["macro_f1", "accuracy"]
    assert figures == pytest.approx({"macro_f1": 1 / 3, "accuracy": 0.5})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], ["a", "b"])])
def test_nothing_to_judge(name, predictions, references):
    with pytest.raises(InputError, match="at least one, got .* give one answer a reference"):
        METRICS[name](predictions, references)


def test_unknown_metric():
    with pytest.raises(InputError, match="Perhaps you meant 'accuracy'"):
        measure(("acuracy",), ["a"], ["a"])


@pytest.mark.parametrize("name", ["rouge1", "rougeL", "bleu", "chrf", "token_f1", "exact_match"])
@pytest.mark.parametrize(
    ("right", "half"),
    [
        ("अच्छा मौसम है और हवा", "अच्छा मौसम नहीं है"),
        ("今天天气很好", "今天天气不好"),
        ("Сегодня хорошая погода и ветер", "Сегодня плохая погода и дождь"),
        ("الطقس جميل اليوم في المدينة", "الطقس سيئ اليوم في القرية"),
        ("วันนี้อากาศดี", "วันนี้อากาศร้อน"),
        ("a fine café in the town", "a bad café in the town"),
    ],
)
def test_other_scripts(name, right, half):
    most = 100 if name in ("bleu", "chrf") else 1
    assert METRICS[name]([right], [right]) == pytest.approx(most)
    score = METRICS[name]([half], [right])
    # Of four words of BLEU, or of a whole answer, none may be left.
    assert 0 < score < most or (score < most and name in ("exact_match", "bleu"))


def test_english_words_are_those_of_rouge_score():
    from rouge_score.tokenizers import DefaultTokenizer

    text = "The films' runners-up (42) weren't_running; U.S. Aries!"
    assert _Words().tokenize(text) == DefaultTokenizer(use_stemmer=True).tokenize(text)


def test_chinese_words_are_those_of_sacrebleu():
    import sacrebleu

    answers, references = ["今天天气很好 3 km"], ["今天天气不好 3 km"]
    theirs = sacrebleu.corpus_bleu(answers, [references], tokenize="zh").score
    assert METRICS["bleu"](answers, references) == pytest.approx(theirs)
