"""Objectives of pretraining, by hand."""

from make_corpus import rng

from prompt_jax.pretrain import objectives as obj


def test_span_corruption_loses_nothing():
    tokens, sentinels = list(range(10, 60)), [200, 199, 198, 197, 196]
    source, target = obj.span_corruption(tokens, sentinels, rng(), rate=0.2)
    spans, current = {}, None
    for token in target:
        if token in sentinels:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    assert 2 <= len(spans) <= 5
    assert [t for s in source for t in (spans[s] if s in spans else [s])] == tokens


def test_span_corruption_always_has_a_target():
    assert obj.span_corruption([5, 6], [200], rng(), rate=0.0) == ([5, 6], [200])


def test_prefix_lm_cuts_in_the_middle():
    source, target = obj.prefix_lm(list(range(10)), rng())
    assert source + target == list(range(10)) and 3 <= len(source) <= 7
    assert obj.prefix_lm([4, 5], rng()) == ([4], [5])


def test_swapped_tokens_are_the_same_tokens():
    source, target = obj.swap_neighbours(list(range(12)), rng())
    assert target == list(range(12)) != source and sorted(source) == target


def test_only_punctuation_changes():
    tokens = [5, 90, 6, 91, 7, 90] * 5
    source, target = obj.change_punctuation(tokens, [90, 91, 92], rng())
    assert target == tokens != source
    assert [s in (90, 91, 92) for s in source] == [t in (90, 91, 92) for t in tokens]
    assert [s for s in source if s < 90] == [t for t in tokens if t < 90]


def test_the_first_rule_for_a_token_counts():
    assert obj.substitute([1, 2, 3, 2], [(2, 9), (2, 8), (7, 5)]) == ([1, 2, 3, 2], [1, 9, 3, 9])


def test_archaic_words_are_modernised_and_back():
    old = "Thou goeth unto the teeth of death, and he saith: Nay!"
    assert obj.modernised(old) == "You goes to the teeth of death, and he says: No!"
    assert obj.modernised("He teacheth and passeth") == "He teaches and passes"
    changed = obj.archaised("You go to your ship, and he says no.", rng(3))
    assert changed != "You go to your ship, and he says no." and "ship, and he" in changed
    assert obj.modernised(changed) == "You go to your ship, and he says no."


def test_case_and_stops_go():
    assert obj.without_case('He said: "Go, Anna!"') == "he said go anna"
