"""Label words: how they are listed, what rows write for them, and what a file's targets show."""

import dataclasses

import pytest

from prompt_jax.config import InputError, TaskConfig
from prompt_jax.data import encode_labels
from prompt_jax.serve.encoding import Inputs
from prompt_jax.tasks import Example, Task, read_labels, remarks, resolve, to_example, write_labels

COLUMNS = ["input", "target"]
TONES = ("negative", "positive")
NUMBERS = (("0", "negative"), ("1", "positive"))


def rows_of(targets):
    return [(f"line {i}", {"input": f"text {i}", "target": t}) for i, t in enumerate(targets, 2)]


def task_of(targets, **config):
    return resolve("file:a.tsv", TaskConfig(**config), COLUMNS, rows_of(targets))


@pytest.mark.parametrize(
    ("written", "labels", "values"),
    [
        (("no", "yes"), ("no", "yes"), ()),
        (("0=negative", "1 = positive"), TONES, NUMBERS),
        (("0=no", "nope=no", "yes"), ("no", "yes"), (("0", "no"), ("nope", "no"))),
        (("=a=b", "0=c=d"), ("a=b", "c=d"), (("0", "c=d"),)),
    ],
)
def test_labels_are_listed_with_what_rows_write(written, labels, values):
    assert read_labels(written) == (labels, values)
    task = Task(name="t", source="{a}", target="{b}", labels=labels, values=values)
    assert read_labels(write_labels(task)) == (labels, values)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (("0=", "1=b"), "an empty label word; write 0=WORD"),
        (("a", "b", "a"), "names 'a' twice"),
        (("caf\u00e9", "cafe\u0301"), "twice; name each label word once"),
        (("0=a", "0.0=b"), "gives '0.0' to 'a' and to 'b'"),
    ],
)
def test_labels_that_cannot_be(written, message):
    with pytest.raises(InputError, match=message):
        read_labels(written)


@pytest.mark.parametrize(
    ("labels", "targets", "answers"),
    [
        (("0=negative", "1=positive"), (0, "1", 1.0, "0.0", False), "nppnn"),
        (("0=negative", "1=positive"), ("negative", True, "positive"), "npp"),
        (TONES, (0, 1, 1.0), "npp"),
        (TONES, (" positive", "negative\n"), "pn"),
        (("1=negative", "2=positive"), (1, 2), "np"),
        (("-1=negative", "1=positive"), (-1, "-1.0", 1), "nnp"),
        (("true=positive", "false=negative"), (True, "False", "true"), "pnp"),
    ],
)
def test_rows_may_write_numbers_and_names(labels, targets, answers):
    task = task_of(targets, labels=labels)
    found = [to_example(task, row, place).target for place, row in rows_of(targets)]
    assert found == [{"n": "negative", "p": "positive"}[answer] for answer in answers]


def test_numbers_are_no_positions_where_the_labels_say_what_they_are():
    truth = task_of([0, 1, 1], labels=("True", "False"))
    assert to_example(truth, {"input": "a", "target": 1}) == Example("a", "True")
    digits = task_of([1, 0, 1], labels=("1", "0"))
    assert to_example(digits, {"input": "a", "target": 1.0}) == Example("a", "1")


@pytest.mark.parametrize(
    ("targets", "bad"), [((1, 2, 2), "1"), ((0, "negative"), "0"), ((True, False), "True")]
)
def test_numbers_that_may_mean_several_things_are_refused(targets, bad):
    task = task_of(targets, labels=TONES)
    message = rf"target '{bad}' is not a label word; allowed: .*0=WORD there says which label"
    with pytest.raises(InputError, match=message):
        [to_example(task, row, place) for place, row in rows_of(targets)]


def test_an_accent_may_be_a_letter_of_its_own():
    task = task_of(["cafe\u0301", "bar"], labels=("caf\u00e9", "bar"))
    assert to_example(task, {"input": "a", "target": "cafe\u0301"}).target == "caf\u00e9"


def test_tags_may_be_numbers():
    config = {"kind": "tagging", "labels": ("O", "B-PER")}
    task = task_of([[0, 1], [0]], **config)
    assert to_example(task, {"input": ["a", "Ana"], "target": [0, 1]}).target == "O B-PER"
    task = task_of([[0, 7]], **{**config, "labels": ("0=O", "7=B-PER")})
    assert to_example(task, {"input": "a Ana", "target": "0 7"}).target == "O B-PER"


SIX = ["billing", "login", "bug", "feature", "cancel", "shipping"]


@pytest.mark.parametrize(
    ("targets", "config", "labels"),
    [
        (SIX * 3, {}, tuple(sorted(SIX))),
        (["10", "9", "x"] * 3, {}, ("9", "10", "x")),
        ([1.0, "1", 0] * 3, {}, ("0", "1")),
        (SIX * 3, {"metrics": ("macro_f1",)}, tuple(sorted(SIX))),
        (SIX, {"kind": "classification"}, tuple(sorted(SIX))),
        (SIX, {}, ()),  # They do not repeat.
        (SIX * 3, {"kind": "generation"}, ()),
        (SIX * 3, {"metrics": ("chrf",)}, ()),
        (["yes"] * 20, {}, ()),
        (["0.2", "0.4"] * 20, {}, ()),  # A score.
        (["A whole sentence, which is the label of nothing.", "b"] * 20, {}, ()),
        ([str(i) for i in range(40)] * 5, {}, ()),
    ],
)
def test_labels_of_a_file_are_inferred_where_targets_repeat(targets, config, labels):
    task = task_of(targets, **config)
    assert (task.labels, task.choices) == (labels, labels)
    assert task.kind == ("classification" if labels else "generation")
    assert task.metrics == config.get("metrics", Task.metrics) or not config.get("metrics")


def test_labels_are_inferred_of_nothing_that_is_described():
    rows = [("row", {"input": "a", "target": word}) for word in TONES * 5]
    assert resolve("embedded:kjv_to_modern", TaskConfig(), COLUMNS, rows).labels == ()
    assert resolve("embedded:sentiment", TaskConfig(), COLUMNS, rows[:1]).labels == TONES


def test_a_classification_has_two_labels():
    with pytest.raises(InputError, match="two label words at least, and every target is 'yes'"):
        task_of(["yes"] * 3, kind="classification")


def test_what_is_told_of_labels_nobody_named():
    (line,) = remarks(task_of(SIX * 3), TaskConfig())
    assert line.startswith("6 labels: billing, bug, cancel, feature, login, shipping (")
    assert "--task.labels" in line and "--task.kind generation to write freely" in line
    (line,) = remarks(task_of([0, 1], labels=TONES), TaskConfig(labels=TONES))
    assert line.endswith("--task.labels 0=negative 1=positive")
    named = TaskConfig(labels=("0=negative", "1=positive"))
    assert remarks(task_of([0, 1], labels=named.labels), named) == []


def test_labels_of_the_same_tokens_are_refused(embedded):
    message = "'\u597d' and '\u574f' are the same tokens to this backbone .*unk.*\u597d=WORD"
    with pytest.raises(InputError, match=message):
        encode_labels(embedded.tokenizer, ["\u597d", "\u574f"], 8)
    with pytest.raises(InputError, match="are the same tokens"):
        encode_labels(embedded.tokenizer, ["bad service", "bad food"], 2)
    assert len(encode_labels(embedded.tokenizer, ["good", "bad", "\u597d"], 8)) == 3
    texts = Inputs(embedded, (32,))
    with pytest.raises(InputError, match="are the same tokens"):
        texts.scoring("good", ["\u597d", "\u574f"], False)
    assert len(texts.encode("half \ud83d")[0]) > 1


def test_what_rows_write_travels_with_a_prompt(prompt, tmp_path):
    from prompt_jax.cli.arguments import trained_on
    from prompt_jax.prompts import load_prompt, save_prompt

    task = dataclasses.replace(prompt.task, labels=TONES, values=NUMBERS, kind="classification")
    save_prompt(tmp_path / "p", dataclasses.replace(prompt, task=task))
    assert load_prompt(tmp_path / "p").task == task
    config = trained_on(["--prompt", str(tmp_path / "p")]).task
    assert config.labels == ("0=negative", "1=positive") and config.kind is None
    again = resolve("file:b.tsv", config, COLUMNS, rows_of([1]))
    assert (again.labels, again.values) == (TONES, NUMBERS)


def test_a_prompt_that_writes_goes_on_writing(prompt, tmp_path):
    from prompt_jax.cli.arguments import trained_on
    from prompt_jax.prompts import save_prompt

    task = Task(name="file:x.tsv", source="{input}", target="{target}", metrics=("chrf",))
    save_prompt(tmp_path / "p", dataclasses.replace(prompt, task=task))
    saved = ["--prompt", str(tmp_path / "p")]
    config = trained_on(saved).task
    assert resolve("file:b.tsv", config, COLUMNS, rows_of(SIX * 3)).labels == ()
    assert (config.kind, config.metrics) == ("generation", ("chrf",))
    assert trained_on([*saved, "--task.kind", "generation"]).task == config
    # Its metric is none of label words.
    config = trained_on([*saved, "--task.labels", "a,b"]).task
    assert (config.kind, config.metrics) == (None, ())
    assert trained_on([*saved, "--task.kind", "classification"]).task.metrics == ()
