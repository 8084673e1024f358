"""Commands on a mesh; `test_sharded.py` runs these too in a process of eight fake devices."""

import dataclasses
import re

import pytest
from eight_models import MODELS, mesh_of

from prompt_jax import cli
from prompt_jax.doctor import mistakes as mistakes_of


@pytest.fixture
def trained(tiny_folder, task_file, tmp_path, capsys):
    """A run of two steps on a mesh: its folder, the arguments that it had, and what it said."""
    out = str(tmp_path / "run")
    given = ["--backbone", str(tiny_folder), "--data.task", f"file:{task_file}", "--out", out]
    given += ["--task.labels", "negative", "positive", "--data.max-source-length", "16"]
    given += ["--train.batch-size", "8", "--train.eval-every", "2", "--train.schedule", "constant"]
    assert cli.main(["train", *given, "--train.steps", "2", "--mesh.tensor", "2"]) == 0
    return out, given, capsys.readouterr().out


@pytest.mark.slow
def test_train_then_resume_evaluate_and_predict_on_other_meshes(trained, tmp_path, capsys):
    out, given, said = trained
    assert "8 cpu devices: data 4 x fsdp 1 x tensor 2" in said
    more = ["--train.steps", "4", "--mesh.fsdp", "4", "--mesh.tensor", "1", "--resume"]
    assert cli.main(["train", *given, *more]) == 0
    said = capsys.readouterr().out
    assert "data 2 x fsdp 4 x tensor 1" in said and "resuming after step 2 of 4" in said
    mesh = ["--prompt", out, "--mesh.tensor", "2", "--mesh.data", "1"]
    assert cli.main(["evaluate", *mesh]) == 0
    inputs, answers = tmp_path / "inputs.txt", tmp_path / "answers.jsonl"
    inputs.write_text("good film\nbad film\ngood\n")
    assert cli.main(["predict", *mesh, "--input", str(inputs), "--output", str(answers)]) == 0
    assert len(answers.read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mesh.fsdp", "3"], "fsdp 3 x tensor 1 does not divide 8 devices; nearest that do: "),
        (["--mesh.tensor", "8"], "mesh.tensor 8 does not divide the model's 2 heads; nearest on 8"),
        (["--train.batch-size", "12"], "12 rows of a step do not divide over the 8 devices.*8 or"),
    ],
)
def test_meshes_that_do_not_divide(options, message, tiny_folder, task_file, tmp_path, capsys):
    common = ["--backbone", str(tiny_folder), "--data.task", f"file:{task_file}"]
    assert cli.main(["train", *common, "--out", str(tmp_path / "run"), *options]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_doctor_tells_how_a_model_lies_on_a_mesh(capsys):
    arguments = ["doctor", "--backbone", "t5_1_1_xxl", "--mesh.fsdp", "2", "--mesh.tensor", "4"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert re.search(r"8 cpu devices: data 1 x fsdp 2 x tensor 4\n", said)
    assert re.search(r"embedding +\[32128, 4096\] +tensor\+fsdp - +526.39 +65.80", said)
    assert "these CPU devices are fake" in said and "CPU 7" in said


def test_doctor_tells_what_a_mesh_does_not_divide():
    def mistakes(name, *sizes):
        return " ".join(mistakes_of(dataclasses.replace(MODELS[name], mesh=mesh_of(*sizes))))

    assert "2 heads of keys on 4 devices of mesh.tensor" in mistakes("llama", 1, 1, 4)
    assert "a vocabulary of 61 on 8 devices" in mistakes("gpt2", 1, 4, 2)
    assert "rows are not shared out" in mistakes("t5", 1, 1, 8)
    assert "4 of 8 devices are idle" in mistakes("t5", 1, 1, 4)
