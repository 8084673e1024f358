"""Rows become text by templates; whatever does not fit is answered."""

import re

import pytest

from prompt_jax.config import METRICS, InputError, TaskConfig
from prompt_jax.tasks import (
    TASKS,
    Example,
    Task,
    parse_name,
    resolve,
    to_example,
    to_examples,
    to_source,
)

PAIR = Task(name="pair", source="premise: {premise} hypothesis: {hypothesis}", target="{label}")
NLI = Task(name="nli", source="{text}", target="{label}", labels=("yes", "no"))


def test_a_row_becomes_two_texts():
    row = {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment", "idx": 7}
    assert to_example(PAIR, row) == Example(
        source="premise: It rains. hypothesis: It is wet.", target="entailment"
    )
    assert to_source(PAIR, {"premise": "A", "hypothesis": "B"}) == "premise: A hypothesis: B"


def test_numbers_braces_and_format_specs():
    task = Task(name="t", source="{{{id}}} {text:plain}", target="{score:fifths}/{share:.2f}")
    row = {"id": 3, "text": "<b>Sent 1: </b>one<br>two", "score": 2.31, "share": 0.125}
    assert to_example(task, row) == Example(source="{3} Sent 1: one two", target="2.4/0.12")


NESTED = {
    "translation": {"en": "a dog", "fr": "un chien"},
    "list": [{"text": ["x", "y"]}],
    "a.b": 1,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{translation.en}", "a dog"),
        ("{translation[fr]}", "un chien"),
        ("{list[0].text[1]} {list.0.text}", "y x y"),
        ("{a.b}", "1"),
    ],
)
def test_templates_reach_inside_a_column(template, text):
    task = Task(name="t", source=template, target="{translation.fr}")
    assert to_example(task, NESTED) == Example(text, "un chien")
    assert resolve("file:a", TaskConfig(source=template, target="{list}"), NESTED)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{translation.de}", "line 3, column 'translation': no name 'de'; there are: en, fr"),
        ("{list[1]}", "line 3: .list.1.. reaches for '1' in a list of 1; correct the template"),
        ("{translation.en.x}", "reaches for 'x' in a str; correct"),
        ("{translation}", "holds a dict; .* or reach inside, e.g. {translation.en}"),
        ("{list}", r"holds a list; .* or reach inside, e.g. {list\[0\].text\[0\]}"),
        ("{translations.en}", "no column 'translations'.*Perhaps you meant 'translation'"),
    ],
)
def test_templates_that_reach_for_what_is_not_there(template, message):
    with pytest.raises(InputError, match=message):
        to_source(Task(name="t", source=template, target="{x}"), NESTED, "line 3")


@pytest.mark.parametrize("title", [None, float("nan"), ""])
def test_a_missing_value_of_an_input_is_an_empty_text(title):
    task = Task(name="t", source="{title} {text:plain}", target="{label}")
    assert to_source(task, {"title": title, "text": "A dog."}) == "A dog."
    with pytest.raises(InputError, match="empty source"):
        to_source(task, {"title": title, "text": None})


def test_a_column_name_may_have_its_accent_apart():
    task = Task(name="t", source="{pr\u00e9nom}", target="{x}")
    assert to_source(task, {"pre\u0301nom": "Ana"}) == "Ana"


def test_the_kind_decides_the_default_metrics():
    assert (PAIR.kind, PAIR.metrics) == ("generation", ("exact_match", "token_f1", "rougeL"))
    assert (NLI.kind, NLI.metrics) == ("classification", ("accuracy", "macro_f1"))


@pytest.mark.parametrize(
    ("name", "row", "source", "target"),
    [
        ("embedded:sentiment", {"input": "Fun.", "target": "positive"}, "Fun.", "positive"),
        ("tfds:glue/sst2", {"sentence": "Fun.", "label": "negative"}, "sentence: Fun.", "negative"),
        (
            "tfds:glue/mnli",
            {"premise": "P", "hypothesis": "H", "label": "neutral"},
            "hypothesis: H premise: P",
            "neutral",
        ),
        (
            "tfds:glue/stsb",
            {"sentence1": "A", "sentence2": "B", "label": 3.5},
            "sentence1: A sentence2: B",
            "3.6",
        ),
        (
            "tfds:super_glue/boolq",
            {"question": "Q", "passage": "P", "label": "True"},
            "passage: P question: Q",
            "True",
        ),
        (
            "tfds:super_glue/multirc",
            {"question": "Q", "answer": "A", "paragraph": "<b>1</b>x<br>y", "label": "False"},
            "question: Q answer: A paragraph: 1x y",
            "False",
        ),
        (
            "tfds:super_glue/wic",
            {"word": "w", "sentence1": "A", "sentence2": "B", "label": "True"},
            "sentence1: A sentence2: B word: w",
            "True",
        ),
    ],
)
def test_known_tasks_read_as_t5_reads_them(name, row, source, target):
    task = resolve(name, TaskConfig(), row)
    assert to_example(task, row) == Example(source, target)


def test_every_known_metric_exists():
    assert {metric for task in TASKS.values() for metric in task.metrics} <= set(METRICS)


def test_resolve_lets_the_user_override():
    columns = ["sentence", "label", "idx"]
    config = TaskConfig(source="review: {sentence}", metrics=("macro_f1",))
    task = resolve("tfds:glue/sst2:2.0.0@train", config, columns)
    assert (task.name, task.source) == ("tfds:glue/sst2", "review: {sentence}")
    assert (task.target, task.labels) == ("{label}", ("negative", "positive"))
    assert task.metrics == ("macro_f1",)


def test_input_and_target_need_no_template():
    task = resolve("file:a.tsv", TaskConfig(labels=("x", "y")), ["input", "target", "id"])
    assert (task.source, task.target, task.kind) == ("{input}", "{target}", "classification")
    assert task.metrics == ("accuracy", "macro_f1")


def test_text_and_label_need_no_template():
    rows = [("", {"text": "Fun.", "label": i % 2}) for i in range(8)]
    task = resolve("file:a.tsv", TaskConfig(), ["text", "label"], rows)
    assert (task.source, task.target, task.labels) == ("{text}", "{label}", ("0", "1"))
    task = resolve("file:a.tsv", TaskConfig(), ["input", "target", "text", "label"])
    assert (task.source, task.target) == ("{input}", "{target}")


def test_names_have_three_parts():
    assert parse_name("embedded:sentiment/test_ood_nyt") == (
        "embedded",
        "sentiment",
        "test_ood_nyt",
    )
    assert parse_name("tfds:glue/mnli:2.0.0@validation_matched") == (
        "tfds",
        "glue/mnli:2.0.0",
        "validation_matched",
    )
    assert parse_name("hf:nyu-mll/glue/sst2@v1.0:train[:9]") == (
        "hf",
        "nyu-mll/glue/sst2@v1.0",
        "train[:9]",
    )
    for name in ("hf:a/b", "hub:a/b", "huggingface:a/b", "tfds:huggingface:a__b"):
        assert parse_name(name) == ("hf", "a/b", None)
    assert parse_name("file:data/a@b.tsv") == ("file", "data/a@b.tsv", None)
    assert parse_name("tfds:glue/mnli:2.0.0@test").key == "tfds:glue/mnli"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sentiment", "unknown task 'sentiment'.*Perhaps you meant 'embedded:sentiment'"),
        ("embeded:sentiment", "unknown task prefix 'embeded'.*Perhaps you meant 'embedded'"),
        ("embedded:sentimnt", "unknown task.*allowed: embedded:.*meant 'embedded:sentiment'"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(InputError, match=message):
        parse_name(name)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (
            NLI,
            {"txt": "a", "label": "yes"},
            "line 3: no column 'text'; there are: txt, label.*'txt'",
        ),
        (NLI, {"text": " ", "label": "yes"}, "line 3: empty source .*remove the row"),
        (PAIR, {"premise": "", "hypothesis": " ", "label": "x"}, "line 3: empty source"),
        (PAIR, {"premise": "a", "hypothesis": "b", "label": ""}, "line 3: empty target"),
        (
            NLI,
            {"text": "a", "label": "yess"},
            "'yess' is not a label word; allowed: yes, no.*'yes'",
        ),
        (NLI, {"text": "a", "label": None}, "column 'label' has no value, as in a split without"),
        (NLI, {"text": [[1]], "label": "yes"}, "column 'text' holds a list; a template takes text"),
    ],
)
def test_rows_that_do_not_fit(task, row, message):
    with pytest.raises(InputError, match=message):
        to_example(task, row, "line 3")


def test_rows_that_do_not_fit_are_counted():
    rows = [
        (f"a.csv line {i}", {"text": "a", "label": "yes" if i % 2 else i}) for i in range(2, 12)
    ]
    message = (
        "^a.csv line 2: target '2' is not a label word; allowed: yes, no.*\n5 of 10 rows do not "
        "fit, as a.csv line 4: target '4' is not a label word; a.csv line 6: [^;]*$"
    )
    with pytest.raises(InputError, match=message):
        to_examples(NLI, rows)
    assert len(to_examples(NLI, rows[1::2])) == 5


def test_a_spec_that_does_not_apply():
    task = Task(name="t", source="{text:.1f}", target="{text}")
    with pytest.raises(InputError, match=re.escape("{text:.1f} cannot be applied to 'a'")):
        to_source(task, {"text": "a"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TaskConfig(), "has the columns text, topic and no known templates; give --task.source"),
        (TaskConfig(source="{text}"), "no known templates"),
        (TaskConfig(source="{text}", target="{topic!cut}"), "has !cut, which is for inputs"),
        (
            TaskConfig(source="{txt}", target="{topic}"),
            "no column 'txt'; there are: text, topic.*'text'",
        ),
        (TaskConfig(source="hello", target="{topic}"), "template 'hello' names no column"),
        (TaskConfig(source="{text", target="{topic}"), "template '{text': expected '}'"),
    ],
)
def test_templates_that_do_not_fit(config, message):
    with pytest.raises(InputError, match=message):
        resolve("file:a.csv", config, ["text", "topic"])
