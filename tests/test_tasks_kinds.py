"""Rows of words with tags, and of questions with answers in a text."""

import dataclasses

import pytest

from prompt_jax.config import InputError, TaskConfig
from prompt_jax.tasks import TASKS, Example, Task, completed, resolve, to_example

TAGS = Task(name="tags", source="{tokens}", target="{tags}", kind="tagging")
SPAN = Task(name="span", source="q: {question} c: {context}", target="{answers}", kind="span")
ROW = {"question": "Who?", "context": "Ada met Bob and Ada.", "answers": "Ada"}


def test_lists_of_words_and_plain_text_are_one():
    row = {"tokens": ["EU", "rejects", "it"], "tags": ["B-ORG", "O", "O"]}
    assert to_example(TAGS, row) == Example("EU rejects it", "B-ORG O O")
    assert to_example(TAGS, {"tokens": "EU rejects it", "tags": "B-ORG O O"}) == to_example(
        TAGS, row
    )


def test_tags_are_found_in_the_rows():
    task = completed(TAGS, [Example("a b", "O B-X"), Example("c", "B-A")])
    assert task.labels == ("O", "B-A", "B-X") and task.metrics[0] == "entity_f1"
    assert completed(TAGS, [Example("a", "NOUN")]).metrics == ("tag_accuracy",)
    assert completed(task, [Example("a", "B-Z")]) is task


def test_metrics_of_the_user_stay():
    chosen = Task(name="t", source="{a}", target="{b}", kind="tagging", metrics=("accuracy",))
    assert completed(chosen, [Example("a", "NOUN")]).metrics == ("accuracy",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"] * 3}, "row 7: 3 tags for 2 words; every word has"),
        ({"tokens": "a b", "tags": ["O"]}, "row 7: 1 tags for 2 words"),
        ({"tokens": ["a"], "tags": ["B-Y"]}, "'B-Y' is not a tag of this task; allowed: O, B-X"),
        ({"tokens": ["a"], "tags": [[3]]}, "column 'tags' holds a list; a template takes text"),
    ],
)
def test_tags_that_do_not_fit(row, message):
    task = Task(name="t", source="{tokens}", target="{tags}", kind="tagging", labels=("O", "B-X"))
    with pytest.raises(InputError, match=message):
        to_example(task, row, "row 7")


def test_an_answer_stands_in_the_last_column():
    example = to_example(SPAN, ROW)
    assert example == Example("q: Who? c: Ada met Bob and Ada.", "Ada", (), 11)
    squad = ROW | {"answers": {"text": ["Ada", "Bob", "Ada"], "answer_start": [16, 8, 0]}}
    example = to_example(SPAN, squad)
    assert (example.start, example.others) == (27, ("Bob",))
    assert example.source[example.start :].startswith("Ada.")
    assert example.references == ("Ada", "Bob")


@pytest.mark.parametrize("answers", [("Ada ", 1), (["Ada", "Bob"], [1, 9]), ("Ada", None)])
def test_space_around_a_text_and_its_answers_is_left_out(answers):
    alone = dataclasses.replace(SPAN, source="{context}")
    row = {
        "context": "\nAda met Bob",
        "answers": dict(zip(("text", "answer_start"), answers, strict=True)),
    }
    example = to_example(alone, row)
    assert (example.source, example.target, example.start) == ("Ada met Bob", "Ada", 0)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("Eve", "the answer 'Eve' is not in the input where it should be"),
        ("Who", "the answer 'Who' is not in the input where it should be"),
        ({"text": ["Ada"], "answer_start": [3]}, "the answer 'Ada' is not in the input"),
        (
            [" "],
            "column 'answers' holds an empty answer; a question without an answer has an empty",
        ),
        (7, "column 'answers' holds no answers; allowed: a text, a list of texts"),
        ({"text": ["Ada"], "answer_start": ["0"]}, "column 'answers' holds no answers; allowed"),
    ],
)
def test_answers_that_do_not_fit(answers, message):
    with pytest.raises(InputError, match="row 7: " + message):
        to_example(SPAN, ROW | {"answers": answers}, "row 7")


def test_the_target_of_a_span_is_a_column():
    task = Task(name="t", source="{context}", target="a: {answers}", kind="span")
    with pytest.raises(InputError, match="the target template of a span is its column alone"):
        to_example(task, ROW)


def test_what_a_name_declares():
    conll = resolve("tfds:conll2003", TaskConfig(), ["id", "tokens", "pos", "chunks", "ner"])
    assert conll == TASKS["tfds:conll2003"] and conll.choices == ()
    pos = TaskConfig(target="{pos}", labels=("NN", "VB"))
    pos = resolve("tfds:conll2003", pos, ["tokens", "pos", "ner"])
    assert (pos.kind, pos.labels, pos.metrics) == ("tagging", ("NN", "VB"), ("tag_accuracy",))
    squad = resolve("tfds:squad", TaskConfig(), ["id", "title", "context", "question", "answers"])
    assert (squad.kind, squad.metrics) == ("span", ("token_f1", "exact_match"))
    written = resolve("embedded:sentiment", TaskConfig(kind="generation"), ["input", "target"])
    assert (written.kind, written.labels, written.metrics[0]) == ("generation", (), "exact_match")
    file = resolve("file:a.tsv", TaskConfig(labels=("a", "b")), ["input", "target"])
    assert (file.kind, file.choices) == ("classification", ("a", "b"))


def test_kinds_that_cannot_be():
    with pytest.raises(InputError, match="unknown task.kind 'taging'.*Perhaps you meant 'tagging'"):
        TaskConfig(kind="taging")
    with pytest.raises(InputError, match="'t' is a classification and has no label words; set"):
        Task(name="t", source="{a}", target="{b}", kind="classification")
