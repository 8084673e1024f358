"""`prompt-jax init`: a file becomes a config that trains."""

import json
from decimal import Decimal

import pytest

from prompt_jax import cli
from prompt_jax.cli.arguments import bound
from prompt_jax.cli.init import config_text
from prompt_jax.config import Config, InputError, TaskConfig
from prompt_jax.data import load_table
from prompt_jax.tasks import resolve
from prompt_jax.tasks.columns import candidates, is_decimal, template


def rows(**columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


TEXTS = [f"a film number {i}" for i in range(30)]
LABELS = ["good", "bad", "fair"] * 10
DATES = [f"2024-01-0{i % 7 + 1}" for i in range(30)]


@pytest.mark.parametrize(
    ("table", "answers", "inputs"),
    [
        (rows(id=range(30), when=DATES, body=TEXTS, queue=LABELS), ["queue"], ["body"]),
        (rows(queue=LABELS, label=LABELS, body=TEXTS), ["label"], ["body"]),
        (rows(one=LABELS, two=LABELS, body=TEXTS), ["one", "two"], ["body"]),
        (rows(title=TEXTS, text=TEXTS, class_of=LABELS), ["class_of"], ["text"]),
        (rows(title=TEXTS, body=TEXTS, label=LABELS), ["label"], ["title", "body"]),
        (rows(question=TEXTS, reply=TEXTS), ["reply"], ["question"]),
        (rows(text=TEXTS, price=[i / 4 for i in range(30)]), ["price"], ["text"]),
        (rows(a=TEXTS, b=TEXTS), ["a", "b"], ["a", "b"]),
        (rows(dog=["chien"] * 30, cat=["chat"] * 30), ["dog", "cat"], ["dog", "cat"]),
    ],
)
def test_columns_that_fit(table, answers, inputs):
    assert candidates(table) == (answers, inputs)


def test_a_template_of_several_columns():
    assert template(["a"]) == "{a}" and template(["a", "b"]) == "a: {a} b: {b}"


def test_an_answer_that_is_decided_is_no_input():
    assert candidates(rows(a=TEXTS, b=TEXTS), "b") == (["b"], ["a"])


def test_decimal_numbers():
    assert is_decimal([1.5, "2", None]) and not is_decimal([1, 2]) and not is_decimal(["a.b"])
    assert is_decimal([Decimal("3.40")])


@pytest.mark.parametrize("columns", [("text", "label"), ("review", "stars")])
def test_decimal_answers_are_numbers_to_learn(columns, tmp_path, tiny_folder):
    lines = [f"{text},{i / 4}" for i, text in enumerate(TEXTS)]
    (tmp_path / "a\\b.csv").write_text("\n".join([",".join(columns), *lines]))
    text = config_text(str(tmp_path / "a\\b.csv"), "c.py", [], "", str(tiny_folder), lambda *_: [])
    compile(text, "c.py", "exec")
    assert 'kind="regression"' in text


def test_a_column_that_no_template_can_name(tmp_path):
    (tmp_path / "form.csv").write_text("\n".join(["Q1: How was it?,label", "a b,c", "d e,f"]))
    with pytest.raises(InputError, match="cannot name the column 'Q1: How was it.', for its"):
        config_text(str(tmp_path / "form.csv"), "c.py", [], "", "embedded", lambda *_: [])
    rows = load_table(f"file:{tmp_path / 'form.csv'}", "train")
    with pytest.raises(InputError, match="a template cannot name the column 'Q1: How was it.'"):
        resolve(
            "file:form.csv",
            TaskConfig(source="{Q1: How was it?}", target="{label}"),
            rows[0].values,
        )


@pytest.fixture
def tickets(tmp_path):
    """A file of rows with columns that are no input."""
    file = tmp_path / "tickets.csv"
    lines = [
        f"{i},{text},{label}" for i, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))
    ]
    file.write_text("\n".join(["id,body,queue", *lines]))
    return file


def test_a_config_of_a_file(tickets, tmp_path, tiny_folder, capsys):
    file, out = tickets, tmp_path / "tickets.py"
    words = ["init", str(file), "--out", str(out), "--backbone", str(tiny_folder)]
    assert cli.main(words) == 0
    shown, aside = capsys.readouterr()
    assert f"config written to {out}" in aside and f"prompt-jax train {out}" in shown
    config = bound(str(out), Config)
    assert (config.task.source, config.task.target) == ("{body}", "{queue}")
    assert config.task.labels == ("bad", "fair", "good") and config.train.batch_size == 16
    assert (config.data.max_source_length, config.data.max_target_length) == (32, 8)
    assert "# Rows: bad 10, fair 10, good 10." in out.read_text()
    # What is there stays, unless it may be replaced.
    assert cli.main(words) == 2
    assert "tickets.py exists; give another --out, or --overwrite" in capsys.readouterr().err
    assert cli.main([*words, "--overwrite"]) == 0


@pytest.mark.slow
def test_a_config_of_a_file_trains(tickets, tmp_path, tiny_folder):
    out = str(tmp_path / "tickets.py")
    assert cli.main(["init", str(tickets), "--out", out, "--backbone", str(tiny_folder)]) == 0
    flags = ["--train.steps", "2", "--train.eval-every", "2", "--out", str(tmp_path / "run")]
    assert cli.main(["train", out, *flags]) == 0
    assert (tmp_path / "run/prompt").is_dir()


def test_a_choice_that_is_open(tmp_path, tiny_folder, capsys):
    file, out = tmp_path / "pairs.jsonl", tmp_path / "pairs.py"
    table = rows(informal=TEXTS, formal=[f"sir, {text}" for text in TEXTS])
    file.write_text("\n".join(map(json.dumps, table)))
    words = ["init", str(file), "--out", str(out), "--backbone", str(tiny_folder)]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "may be informal or formal; choose with --answer, e.g. --answer informal" in error
    assert cli.main([*words, "--answer", "frmal"]) == 2
    assert "'formal'?" in capsys.readouterr().err
    asked = []

    def ask(option, purpose, columns):
        asked.append((option, list(columns)))
        return ["formal"]

    out.write_text(config_text(str(file), "pairs.py", (), "", str(tiny_folder), ask))
    config = bound(str(out), Config)
    assert asked == [("--answer", ["informal", "formal"])]
    assert (config.task.source, config.task.kind) == ("{informal}", "generation")
    assert config.eval.max_new_tokens == config.data.max_target_length == 16
    columns = ["--input", "informal", "--answer", "informal", "--overwrite"]
    assert cli.main([*words, *columns]) == 2
    assert "both name informal; name it once" in capsys.readouterr().err
    columns[3] = "formal"
    assert cli.main([*words, *columns]) == 0
    assert bound(str(out), Config).task.target == "{formal}"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere.csv"], "nowhere.csv"),
        (["nowhere.csv", "--out", "config.toml"], "ends in .py"),
        (["nowhere.csv", "--out", "-"], "- stands for standard output"),
    ],
)
def test_refused_inputs(flags, message, capsys):
    assert cli.main(["init", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_file_without_an_answer(tmp_path):
    file = tmp_path / "one.csv"
    file.write_text("text\n" + "\n".join(TEXTS))
    with pytest.raises(InputError, match="has no column for the answer"):
        config_text(str(file), "a.py", (), "", "embedded", lambda *_: [])
