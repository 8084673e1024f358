"""What a user may get wrong, through the command line: exit code 2, one message, no traceback.

The rooms test their own messages in more detail; here every kind of mistake meets the program.
"""

import json
import os
import pickle
import shutil

import pytest

from prompt_jax import cli


class Evil:
    """Unpickled carelessly, it calls a function."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def flip(path, at=-3):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.fixture
def places(run, tiny_folder, tmp_path):
    """Copies of a model and of a finished run, to be damaged, and a task that is right."""
    model, finished = tmp_path / "model", tmp_path / "finished"
    shutil.copytree(tiny_folder, model)
    shutil.copytree(run, finished)
    good = tmp_path / "good.tsv"
    good.write_text("input\ttarget\n" + "a good film\tyes\na bad film\tno\n" * 10)
    return {"model": model, "finished": finished, "good": good, "here": tmp_path}


def ask(capsys, *arguments):
    """The message of a command that must fail."""
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as exit:  # tyro's own way out
        code = exit.code
    captured = capsys.readouterr()
    text = " ".join((captured.out + captured.err).replace("│", " ").split())
    assert code == 2, text
    assert "Traceback" not in text
    return text


def train(places, *flags):
    base = ["train", "--backbone", places["model"], "--out", places["here"] / "out"]
    return [*base, "--data.task", f"file:{places['good']}", "--train.steps", "1", *flags]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.task", "embedded:sentimnet"], "Perhaps you meant 'embedded:sentiment'?"),
        (["--backbone", "t5_1_1_smal"], "Perhaps you meant 't5_1_1_small'"),
        (["--method.num-virtual-tokns", "3"], "Perhaps you meant"),
        (["--method.num-virtual-tokens", "0"], "num_virtual_tokens must be at least 1, got 0"),
        (["--method.num-virtual-tokens", "900"], "lower method.num_virtual_tokens or"),
        (["--task.source", "{text}"], "input, target"),
        (["--task.labels", "yes", "perhaps"], "line 3"),
    ],
)
def test_options(places, capsys, flags, message):
    assert message in ask(capsys, *train(places, *flags))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"input\ttarget\n", "has no rows"),
        (b"input\ttarget\na\tyes\n\tno\n", "line 3"),
        (b"input\ttarget\na\tyes\nb\t\n", "line 3"),
        (b"input\ttarget\na\tyes\ncaf\xe9\tno\n", "line 3: byte 0xe9"),
    ],
)
def test_files(places, capsys, content, message):
    path = places["here"] / "task.tsv"
    path.write_bytes(content)
    assert message in ask(capsys, *train(places, "--data.task", f"file:{path}"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda model: cut(model / "model.safetensors"), "truncated or damaged"),
        (lambda model: flip(model / "model.safetensors", 20), "model.safetensors"),
        (lambda model: cut(model / "config.json"), "config.json is truncated or damaged"),
        (lambda model: shutil.rmtree(model), "no folder"),
    ],
)
def test_models(places, capsys, damage, message):
    damage(places["model"])
    assert message in ask(capsys, *train(places))


def test_a_pickle_that_runs_something(places, capsys):
    made = places["here"] / "made"
    (places["model"] / "model.safetensors").unlink()
    with (places["model"] / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"shared.weight": Evil(made)}, file)
    assert "pytorch_model.bin" in ask(capsys, *train(places))
    assert not made.exists()


def test_prompts_that_do_not_fit(places, capsys, run):
    evaluate = ["evaluate", "--prompt", run, "--data.task", f"file:{places['good']}"]
    assert "16 wide" in ask(capsys, *evaluate, "--backbone", "embedded")
    from safetensors.numpy import load_file, save_file

    weights = places["model"] / "model.safetensors"
    save_file({name: array * 1.5 for name, array in load_file(weights).items()}, weights)
    other = [*evaluate, "--backbone", places["model"]]
    assert "trained on other weights" in ask(capsys, *other)
    assert cli.main([*map(str, other), "--allow-mismatch"]) == 0


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "prompt_jax_config.json"])
def test_damaged_prompts(places, capsys, damage, name):
    damage(next(places["finished"].glob(f"prompt/{name}")))
    assert name in ask(capsys, "prompts", "inspect", places["finished"])


def test_damaged_checkpoints(places, capsys):
    finished = places["finished"]
    for path in (finished / "checkpoints").rglob("*"):
        if path.is_file() and path.stat().st_size > 400:
            cut(path)
    said = ask(capsys, "train", "--out", finished, "--resume", "--train.steps", "4")
    assert "checkpoint" in said


def test_run_folders(places, capsys):
    finished = places["finished"]
    before = (finished / "config.json").read_text()
    assert "--overwrite" in ask(capsys, *train(places, "--out", finished))
    changed = ["--resume", "--train.learning-rate", "0.5", "--train.seed", "3"]
    said = ask(capsys, "train", "--out", finished, *changed)
    assert "train.learning_rate: 0.3 -> 0.5; train.seed: 7 -> 3" in said
    assert (finished / "config.json").read_text() == before
    assert json.loads(before)["train"]["seed"] == 7
    assert "cannot write" in ask(capsys, *train(places, "--out", "/proc/prompt_jax/run"))
