import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tyro.conf import Positional

from prompt_jax import cli
from prompt_jax.cli import usage
from prompt_jax.cli.arguments import starting_config
from prompt_jax.cli.calls import Call, parse, whole
from prompt_jax.cli.options import options
from prompt_jax.cli.prompts import ACTIONS
from prompt_jax.cli.usage import PAGES
from prompt_jax.config import InputError, method_kinds, resolved
from prompt_jax.methods import MultitaskPromptConfig
from prompt_jax.prompts import load_prompt, save_prompt


def test_flags_go_over_the_config_file(run):
    written = json.loads((run / "config.json").read_text())
    assert written["train"]["steps"] == 2 and written["train"]["seed"] == 7
    assert written["task"]["labels"] == ["no", "yes"]


def test_another_method_over_a_config_file_keeps_the_rate_that_was_chosen(tmp_path):
    path = tmp_path / "prefix.py"
    path.write_text(
        "import prompt_jax as pj\n"
        "train = pj.TrainConfig(learning_rate=0.05)\n"
        "config = pj.Config(method=pj.PrefixTuningConfig(), train=train)\n"
    )
    config, _ = starting_config([str(path), "--method", "lora"])
    assert config.method.kind == "lora"
    train = resolved(config, 1.0).train
    assert (train.optimizer, train.learning_rate) == ("adamw", 0.05)


def test_a_run_records_what_its_method_brings(run):
    train = json.loads((run / "config.json").read_text())["train"]
    assert (train["optimizer"], train["learning_rate"]) == ("adafactor", 0.3)


def test_resume_takes_the_config_of_the_run(run, capsys):
    resume = ["train", "--out", str(run), "--resume", "--train.steps", "3"]
    assert cli.main([*resume, "--log-format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "resuming after step 2 of 3" in [line["message"] for line in lines]
    assert [line["step"] for line in lines if "metrics" in line] == [3]
    *_, last = lines
    assert last["level"] == "result" and last["prompt"] == str(run / "prompt")
    assert last["results"]["majority"]["validation"]["accuracy"] == 0.5
    # At its end already, it is only scored.
    assert cli.main([*resume, "--quiet"]) == 0
    warning, *table = capsys.readouterr().out.splitlines()
    assert warning.startswith("warning: ") and table[0] == "| accuracy | validation |"
    assert table[-3:] == [
        f'next: prompt-jax predict --prompt {run} "..."',
        f"next: prompt-jax evaluate --prompt {run} --rivals shots:4 tf_idf",
        f"next: prompt-jax prompts inspect {run}",
    ]
    assert load_prompt(run).recipe["best_step"] in (0, 2, 3)


def test_a_run_is_resumed_with_its_data_and_for_no_fewer_steps(run, capsys):
    resume = ["train", "--out", str(run), "--resume"]
    assert cli.main([*resume, "--train.steps", "1"]) == 2
    assert re.search(r"another config: train.steps: \d -> 1", capsys.readouterr().err)
    before = json.loads((run / "inputs.json").read_text())
    name = json.loads((run / "config.json").read_text())["data"]["task"]
    path = Path(name.removeprefix("file:"))
    rows = path.read_text()
    path.write_text(rows.replace("good film 1\t", "another film\t"))
    try:
        assert cli.main(resume) == 2
    finally:
        path.write_text(rows)
    assert f"started with another content of the data of {name}. Re" in capsys.readouterr().err
    assert json.loads((run / "inputs.json").read_text()) == before


@pytest.mark.slow
def test_a_prompt_is_evaluated_in_eight_bits(run, capsys):
    arguments = ["evaluate", "--prompt", str(run), "--data.task", f"file:{run.parent / 'task.tsv'}"]
    assert cli.main([*arguments, "--frozen.dtype", "int8"]) == 0
    assert "| tuned prompt |" in capsys.readouterr().out


def test_evaluate_ends_with_json(run, capsys):
    task = json.loads((run / "config.json").read_text())["data"]["task"]
    assert cli.main(["evaluate", "--prompt", str(run), "--data.task", task, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "scored: 4 rows of task.tsv, held out" in err
    last = json.loads(out.splitlines()[-1])
    assert last["prompt"] == load_prompt(run).digest
    ways = last["results"]
    assert ways["majority"]["task.tsv, held out"]["accuracy"] == 0.5
    assert set(ways) == {"majority", "frozen model, no prompt", "tuned prompt"}


def test_predict_takes_labels_from_the_prompt(run, tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("good film\nbad film\n")
    arguments = ["predict", "--prompt", str(run), "--input", str(source), "--output", str(output)]
    assert cli.main(arguments) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1]
    assert all(
        row["prediction"] in ("no", "yes") and set(row["scores"]) == {"no", "yes"} for row in rows
    )


def test_texts_are_answered_on_standard_output(run, tmp_path, capsys):
    texts = ["good film, with a comma", "two\nlines"]
    assert cli.main(["predict", *texts, "--prompt", str(run)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["input"] for row in rows] == texts
    assert all(row["prediction"] in ("no", "yes") for row in rows)


@pytest.mark.parametrize(("word", "number"), [("3", 3), ("1e3", 1000), ("1_000", 1000)])
def test_whole_numbers(word, number):
    assert whole(word) == number


def test_prompts_commands(run, tmp_path, tiny_folder, capsys):
    assert cli.main(["prompts", "list", str(run.parent)]) == 0
    assert "first" in capsys.readouterr().out
    heat_map = tmp_path / "map.png"
    assert cli.main(["prompts", "inspect", str(run), "--heat-map", str(heat_map)]) == 0
    out = capsys.readouterr().out
    assert load_prompt(run).digest in out and heat_map.read_bytes().startswith(b"\x89PNG")
    assert cli.main(["prompts", "export", str(run), "-"]) == 2
    assert "- stands for standard output" in capsys.readouterr().err
    npy, folder = tmp_path / "p.npy", tmp_path / "back"
    assert cli.main(["prompts", "export", str(run), str(npy)]) == 0
    arguments = ["prompts", "import", str(npy), str(folder), "--backbone", str(tiny_folder)]
    assert cli.main(arguments) == 0
    assert load_prompt(folder).digest == load_prompt(run).digest


def test_prompts_answer_together_are_mixed_and_carried_over(run, tmp_path, tiny_folder, capsys):
    out = tmp_path / "mixed"
    train = ["--steps", "2", "--batch-size", "4"]
    assert cli.main(["prompts", "attention", str(run), str(run), "--output", str(out), *train]) == 0
    assert "0.500  " in capsys.readouterr().out
    mixed = load_prompt(out)
    assert mixed.task == load_prompt(run).task and mixed.recipe["data"]["task"].endswith("task.tsv")
    assert cli.main(["prompts", "ensemble", str(run), str(out), "--how", "vote"]) == 0
    table = capsys.readouterr().out
    assert "| majority |" in table and "| 2: mixed |" in table and "| together (vote) |" in table
    both = ["prompts", "ensemble", str(run), str(out), "--how", "weighted"]
    assert cli.main(both) == 0
    table = capsys.readouterr().out
    shares = re.search(r"\| together \(weighted: (\d\.\d\d), (\d\.\d\d)\) \|", table)
    assert "| 2: mixed |" in table and shares
    assert float(shares[1]) + float(shares[2]) == pytest.approx(1, abs=0.011)
    other = tmp_path / "other.tsv"
    other.write_text("input\ttarget\ngood film\tpositive\n")
    # Another file is scored whole: it has no rows of validation.
    assert cli.main([*both, "--task", f"file:{other}"]) == 2
    assert "weights are fitted on validation, and there are no such" in capsys.readouterr().err
    carried = ["prompts", "recycle", str(run), "--backbone", str(tiny_folder)]
    assert cli.main([*carried, "--output", str(tmp_path / "new")]) == 0
    assert "shared words" in capsys.readouterr().out
    assert load_prompt(tmp_path / "new").recipe["recycled"] == "linear"
    # Nothing is trained or loaded where the result cannot be written.
    assert cli.main([*carried, "--output", str(tmp_path / "new")]) == 2
    assert "new exists; choose another folder" in capsys.readouterr().err
    assert cli.main(["prompts", "ensemble"]) == 2
    assert "no prompts given" in capsys.readouterr().err


@pytest.fixture(scope="module")
def several(run, tmp_path_factory):
    """A prompt for two tasks on the backbone of `run`, whose second one has other label words."""
    one = load_prompt(run)
    method = MultitaskPromptConfig(num_virtual_tokens=2, num_tasks=2, combine="add", init="random")
    rows = np.random.default_rng(0).normal(size=(3, 2, 16))
    first, second = one.task, dataclasses.replace(one.task, name="file:b.tsv", labels=("a", "b"))
    prompt = dataclasses.replace(
        one,
        tuned={"prompt": rows[0], "tasks": rows[1:]},
        method=method,
        tasks=(first, second),
        recipe={"data": {"task": first.name, "mixture": (second.name,)}},
    )
    return save_prompt(tmp_path_factory.mktemp("several") / "prompt", prompt)


def test_a_task_is_named_on_every_command(several, run, tmp_path, capsys):
    two = tmp_path / "two.txt"
    two.write_text("good film\ngood film\n")
    files = ["--input", str(two), "--output", str(tmp_path / "out.jsonl")]
    prompt, store = str(several), str(tmp_path / "store")
    commands = (
        ["predict", "--prompt", prompt, *files],
        ["evaluate", "--prompt", prompt],
        ["prompts", "export", prompt, str(tmp_path / "one.npy")],
        ["prompts", "compose", prompt, str(run), "--output", str(tmp_path / "both")],
        ["prompts", "publish", prompt, "--name", "one", "--store", store],
        ["prompts", "recycle", prompt, "--backbone", "x", "--output", str(tmp_path / "new")],
    )
    for command in commands:
        assert cli.main(command) == 2, command
        error = capsys.readouterr().err
        assert "2 tasks, and none is named; give --task-id" in error and "1 (file:b.tsv)" in error
        assert cli.main([*command, "--task-id", "c"]) == 2, command
        assert "has no task 'c'; tasks: 0 (file:" in capsys.readouterr().err
    assert not any(tmp_path.glob("[!t]*"))
    # Both rows have the prompt of the second task, and its label words.
    for task_id in ("1", "file:b.tsv"):
        assert cli.main([*commands[0], "--task_id", task_id, "--overwrite"]) == 0
        lines = (tmp_path / "out.jsonl").read_text().splitlines()
        one, other = (json.loads(line)["scores"] for line in lines)
        assert one == other and set(one) == {"a", "b"}
    for command in commands[2:5]:
        assert cli.main([*command, "--task-id", "1"]) == 0, command
    rows = np.load(tmp_path / "one.npy")
    tuned = load_prompt(several).tuned
    np.testing.assert_allclose(rows, tuned["prompt"] + tuned["tasks"][1], atol=1e-6)
    # A mistake in the alias leaves no version behind.
    assert cli.main([*commands[4], "--task-id", "1", "--alias", "Prod"]) == 2
    assert "an alias is 1 to 64 of" in capsys.readouterr().err
    assert not (tmp_path / "store/one/2").exists()
    published = load_prompt(tmp_path / "store/one/1")
    assert published.method.kind == "prompt_tuning" and published.task.labels == ("a", "b")
    assert cli.main(["prompts", "inspect", prompt]) == 0
    assert "file:b.tsv" in capsys.readouterr().out
    assert cli.main(["prompts", "inspect", prompt, "--task-id", "1"]) == 0
    assert "nearest by cosine" in capsys.readouterr().out
    assert cli.main(["evaluate", "--prompt", str(run), "--task-id", "1"]) == 2
    assert "is the same for all tasks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'.*meant 'train'"),
        (["prompts", "lst"], "unknown prompts command 'lst'.*meant 'list'"),
        (["train", "nowhere.py"], "no config file nowhere.py"),
        (["prompts", "inspect", "nowhere"], "nowhere"),
        (["predict", "--prompt", "nowhere", "--input", "-", "--output", "x"], "nowhere"),
        (["train", "--out", "-"], "- stands for standard output, and a file or a folder is writt"),
        (["plan", "--plot", "-"], "- stands for standard output"),
        (["train", "--data.task", "tickets.csv"], "for a file write file:tickets.csv"),
        (["train", "--data.task", "glue/sst2"], "write tfds:glue/sst2"),
        (["train", "--method", "LoRA"], "Perhaps you meant 'lora'"),
        (["train", "--lr", "0.1"], "unknown option --lr; write --train.learning-rate"),
        (["train", "--train.tensorboard"], "write --train.loggers tensorboard"),
        (["evaluate", "--labels", "a"], "unknown option --labels; write --task.labels"),
        (["prompts", "inspect", "--prompt", "x"], "write its value alone: prompt-jax prompts insp"),
        (["predict", "--text", "x"], "--text is no option; write its value alone"),
        (["predict", "--prompt", "{run}"], "give what to answer, a text in quotes or --input"),
        (["predict", "x", "--prompt", "{run}", "--input", "y"], "--input FILE, and not both"),
        (["predict", "--prompt", "{run}", "--input", "y"], "give --output FILE for the answers"),
        (["train", "--train.steps", "1", __file__], "comes first, before all options"),
    ],
)
def test_bad_input_exits_with_two(arguments, message, run, capsys):
    assert cli.main([word.replace("{run}", str(run)) for word in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    with pytest.raises(InputError, match=message):
        raise InputError(captured.err)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train.stpes", "3"], "Perhaps you meant"),
        (["--train.steps", "many"], "write a whole number such as 300 or 1e3, got 'many'"),
        (["--train.steps", "1.5"], "got '1.5'"),
        (["--method.init", "vocabulary"], "vocab"),
        (["--method.num-virtual-tokens", "0"], "at least 1, got 0"),
        (["--data.max-source-length", "1020"], "16 over"),
    ],
)
def test_wrong_flags_exit_with_two(flags, message, capsys):
    try:
        code = cli.main(["train", *flags])
    except SystemExit as exit:  # tyro's own way out
        code = exit.code
    captured = capsys.readouterr()
    assert code == 2 and message in " ".join((captured.out + captured.err).split())


def test_a_config_file_must_bind_config(tmp_path, capsys):
    path = tmp_path / "empty.py"
    path.write_text("")
    assert cli.main(["train", str(path)]) == 2
    assert "must bind `config` to a Config, got NoneType" in capsys.readouterr().err


def test_a_mistake_in_a_config_file_has_its_line(tmp_path, capsys):
    path = tmp_path / "wrong.py"
    path.write_text("from prompt_jax import TrainConfig\n\nTrainConfig(stepps=3)\n")
    assert cli.main(["train", str(path)]) == 2
    assert "wrong.py line 3: TypeError: " in capsys.readouterr().err


def test_a_bare_array_needs_a_backbone(run, tmp_path, capsys):
    npy = tmp_path / "p.npy"
    assert cli.main(["prompts", "export", str(run), str(npy)]) == 0
    assert cli.main(["prompts", "inspect", str(npy)]) == 2
    assert "give --backbone" in capsys.readouterr().err


def test_help_is_quick_and_complete(capsys):
    for arguments in ([], ["--help"]):
        assert cli.main(arguments) == 0
        out = capsys.readouterr().out
        assert all(command in out for command in cli.COMMANDS)
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "prompt_jax", "--help"], check=True, capture_output=True)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("name", [n for n in cli.COMMANDS if n != "prompts"])
def test_help_names_options_that_there_are(name):
    page, call = PAGES[name], cli.COMMANDS[name]([])
    flags = {option.flag for option in options(call.function)}
    for line in page.examples.strip().splitlines():
        words = line.partition("prompt-jax ")[2].split()
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert words[0] != name or used <= flags, used - flags
    assert page.options.keys() <= flags, page.options.keys() - flags
    text = usage.short(name, call.about)
    if not page.options:
        assert not text
        return
    assert text.count("\n") < 40 and max(map(len, text.splitlines())) <= 100


def test_help_has_examples_before_options(capsys):
    assert {f"prompts {action}" for action in ACTIONS} | set(cli.COMMANDS) - {"prompts"} == set(
        PAGES
    )
    assert cli.main(["evaluate", "--help"]) == 0
    short = capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help-all"])
    full = capsys.readouterr().out
    for text in (short, full):
        assert text.index("  prompt-jax evaluate --prompt runs/default\n") < text.index("--json")
    assert "--data.shots" in full and "--data.shots" not in short
    with pytest.raises(SystemExit):
        cli.main(["prompts", "export", "--help"])
    assert "  prompt-jax prompts export runs/x rows.npy\n" in capsys.readouterr().out


def test_help_names_the_methods(capsys):
    for command in ("train", "compare"):
        assert cli.main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert all(name in text for name in method_kinds())


def test_output_that_nobody_reads_is_no_failure(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(BrokenPipeError):
            print("long " * 100_000, flush=True)
        assert cli.main(["plan", "--help"]) == 1


@pytest.mark.parametrize(
    ("arguments", "labels", "rates", "rows"),
    [
        (["--labels", "a,b", "--rates", "0.1,0.3"], ("a", "b"), (0.1, 0.3), (1, 8)),
        (["--labels", "a,", "b", "--rates", "0.1, 0.3"], ("a", "b"), (0.1, 0.3), (1, 8)),
        (["--labels", "a", "b", "--rates", "0.1", "0.3"], ("a", "b"), (0.1, 0.3), (1, 8)),
        (["--labels", "New York, Rome", "--rows=2,4"], ("New York", "Rome"), (), (2, 4)),
        (["--labels", r"Paris\, Texas,Rome"], ("Paris, Texas", "Rome"), (), (1, 8)),
        (["--labels"], (), (), (1, 8)),
    ],
)
def test_flags_of_several_values(arguments, labels, rates, rows):
    calls = []

    def command(
        paths: Positional[tuple[str, ...]],
        *,
        labels: tuple[str, ...] = ("x",),
        rates: tuple[float, ...] = (),
        rows: tuple[int, ...] = (1, 8),
    ) -> None:
        calls.append((paths, labels, rates, rows))

    parse(Call("test", command, ["runs/lr=1,2", "b", *arguments]))
    assert calls == [(("runs/lr=1,2", "b"), labels, rates, rows)]


def test_a_file_of_numbers_is_answered_in_words(run, tmp_path, capsys):
    lines = (run.parent / "task.tsv").read_text().replace("\tyes", "\t1").replace("\tno", "\t0.0")
    (tmp_path / "a.tsv").write_text(lines)
    options = ["--prompt", str(run), "--task.labels", "0=no,1=yes"]
    assert cli.main(["evaluate", *options, "--data.task", f"file:{tmp_path / 'a.tsv'}"]) == 0
    assert "| majority | 0.500 |" in capsys.readouterr().out
    (tmp_path / "in.txt").write_text("good film\n")
    files = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.jsonl")]
    assert cli.main(["predict", *options, *files]) == 0
    assert set(json.loads((tmp_path / "out.jsonl").read_text())["scores"]) == {"no", "yes"}
