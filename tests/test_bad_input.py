"""What a user may get wrong, through the command line: exit code 2, one message, no traceback.

The rooms test their own messages in more detail; here every kind of mistake meets the program.
"""

import json
import os
import pickle
import shutil

import pytest

from prompt_jax import cli
from prompt_jax.answers import answer, check_words
from prompt_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    InputError,
    PromptTuningConfig,
    TrainConfig,
)
from prompt_jax.experiment.answering import batches_of
from prompt_jax.predict import predict
from prompt_jax.tasks import Example, Task
from prompt_jax.weights import load_backbone, load_tokenizer


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


@pytest.mark.parametrize(
    ("row", "flags", "message"),
    [
        ("a <tok199> film\tyes", [], "task.tsv line 5: '<tok199>' is token"),
        ("a film\t<tok199>", [], "task.tsv line 5, the target: '<tok199>' is token"),
        ("a film\tno", ["--task.labels", "yes,no,<tok199>"], "label word '<tok199>': "),
        (
            "a film\tyes",
            ["--method.init", "text", "--method.init-text", "<tok199>"],
            "method.init_text: '<tok199>' is token",
        ),
        (
            "a film\tyes",
            ["--method.init", "class_labels", "--method.init-labels", "yes", "<tok199>"],
            "label word '<tok199>': ",
        ),
    ],
)
def test_words_that_the_embedding_table_lacks(places, capsys, row, flags, message):
    tokenizer = with_more_words(places["model"])
    tokenizer.save_pretrained(places["model"])
    path = places["here"] / "task.tsv"
    path.write_text("input\ttarget\n" + "a film\tyes\n" * 3 + row + "\n" + "a film\tyes\n" * 9)
    said = ask(capsys, *train(places, "--data.task", f"file:{path}", *flags))
    assert message in said and "has 16128 rows; use the tokenizer that belongs" in said
    assert not (places["here"] / "out" / "checkpoints").exists()


def with_more_words(folder):
    """The tokenizer of a model with words for which the model was not resized."""
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_tokens([f"<tok{i}>" for i in range(200)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id > 16128
    return tokenizer


def test_inputs_that_the_embedding_table_lacks(places):
    backbone = load_backbone(places["model"], tokenizer=with_more_words(places["model"]))
    inputs, output = places["here"] / "inputs.txt", places["here"] / "output.jsonl"
    inputs.write_text("a film\n" * 40 + "a <tok199> film\n")
    task = Task(name="t", source="{input}", target="{target}", labels=("yes", "no"))
    options = {"data": DataConfig(), "eval": EvalConfig(batch_size=2)}
    with pytest.raises(InputError, match="inputs.txt line 41: '<tok199>' is token"):
        predict(backbone, None, task, inputs, output, **options)
    assert not output.exists()
    with pytest.raises(InputError, match="row 1: '<tok199>' is token"):
        answer(backbone, None, ["<tok199>"], task, **options)
    # Words that no text has are no mistake, and padding is masked wherever it comes from.
    config = Config(data=DataConfig(max_source_length=64), train=TrainConfig(batch_size=2))
    examples = [Example("a film", "yes"), Example("a film of the other kind", "no")]
    check_words(backbone, config.data, *zip(*[each[:2] for each in examples], strict=True))
    batch = batches_of(config, PromptTuningConfig(), backbone, examples, task)[0]
    assert batch.tokens.max() < 16128 and not batch.mask.all()


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
