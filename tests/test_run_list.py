"""`prompt-jax runs`: folders of runs, finished or not, beside each other."""

import json

import pytest

from prompt_jax.cli import main
from prompt_jax.config import Config, LoraConfig, TrainConfig, to_json
from prompt_jax.runs import FEW_ROWS


def a_run(folder, scores, test=None, **changes):
    folder.mkdir(parents=True)
    config = Config(out=str(folder), **changes)
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    rows = [
        {"step": 50 * i, "validation/accuracy": score, "validation/macro_f1": 0.0}
        for i, score in enumerate(scores)
    ]
    lines = [json.dumps(row) + "\n" for row in [*rows, {"step": 50 * len(scores), "loss": 0.3}]]
    (folder / "metrics.jsonl").write_text("".join(lines))
    if test is not None:
        saved = folder / "prompt" / "prompt_jax_config.json"
        saved.parent.mkdir()
        saved.write_text(json.dumps({"metrics": {"test/accuracy": test, "test/macro_f1": 0.0}}))


@pytest.fixture
def folder(tmp_path):
    a_run(tmp_path / "prompt", [0.5, 0.7, 0.6], test=0.65)
    a_run(tmp_path / "more" / "lora", [0.5, 0.8], method=LoraConfig(), train=TrainConfig(seed=1))
    a_run(tmp_path / "young", [])
    return tmp_path


def test_the_best_run_is_first_and_has_what_sets_it_apart(folder, capsys):
    assert main(["runs", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if "best step" in line)
    assert "method" in head and "train.seed" in head and "method.r" not in head
    rows = [line.split() for line in lines if str(folder) in line]
    lora, prompt, young = rows
    assert {"lora", "0.800", "accuracy", "100/300"} <= set(lora)
    assert {"prompt_tuning", "0.700", "0.650", "150/300"} <= set(prompt)
    assert {"0/300", "0"} <= set(young)


def test_runs_for_programs_and_their_picture(folder, capsys):
    picture = folder / "runs.png"
    command = ["runs", *(str(folder / name) for name in ("more", "prompt"))]
    assert main([*command, "--json", "--plot", str(picture)]) == 0
    lora, prompt = map(json.loads, capsys.readouterr().out.splitlines())
    assert (lora["run"], lora["validation"], lora["best_step"]) == (
        str(folder / "more" / "lora"), 0.8, 50,
    )  # fmt: skip
    assert lora["options"]["method"] == "lora" and lora["options"]["train.seed"] == 1
    assert (prompt["test"], lora["test"], prompt["metric"]) == (0.65, None, "accuracy")
    assert picture.read_bytes()[:4] == b"\x89PNG"


def curves(folder, rows, recipe=None):
    """A run of such rows, with a saved prompt where there is a recipe."""
    a_run(folder, [])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if recipe is not None:
        (folder / "prompt").mkdir()
        saved = folder / "prompt" / "prompt_jax_config.json"
        saved.write_text(json.dumps({"metrics": {}, "recipe": recipe}))


def test_the_best_step_is_that_of_the_prompt_that_is_kept(tmp_path, capsys):
    distilled = [{"step": i, "validation/kl": kl} for i, kl in enumerate((4.0, 0.5, 0.6))]
    judged = [
        {"step": i, "validation/accuracy": 0.5, "validation/log_likelihood": likely}
        for i, likely in enumerate((-0.9, -0.4, -0.7))
    ]
    swept = [
        {"step": i, "candidate": i % 2, "own_step": i // 2, "validation/accuracy": 0.1 * i}
        for i in range(6)
    ]
    curves(tmp_path / "distilled", distilled)
    curves(tmp_path / "tie", judged)
    curves(tmp_path / "ended", judged, {"best_step": 2})
    curves(tmp_path / "few", [*judged, {**judged[0], "step": 3, "validation/accuracy": 0.6}])
    (tmp_path / "few" / "inputs.json").write_text(json.dumps({FEW_ROWS: True}))
    curves(tmp_path / "sweep", swept)
    curves(tmp_path / "swept", swept, {"best_step": 1, "sweep": {"candidate": 0}})
    curves(tmp_path / "swept_before", swept, {"sweep": {"candidate": 0}})
    assert main(["runs", str(tmp_path), "--json"]) == 0
    runs = {(run := json.loads(line))["run"]: run for line in capsys.readouterr().out.splitlines()}
    shown = {
        run.removeprefix(f"{tmp_path}/"): (facts["best_step"], facts["validation"], facts["step"])
        for run, facts in runs.items()
    }
    assert shown == {
        "distilled": (1, 0.5, 2),
        "few": (1, 0.5, 3),
        "tie": (1, 0.5, 2),
        "ended": (2, 0.5, 2),
        "sweep": (2, 0.5, 2),
        "swept": (1, 0.2, 2),
        "swept_before": (2, 0.4, 2),
    }


def test_what_is_no_run(folder, capsys):
    assert main(["runs", str(folder / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    (folder / "empty").mkdir()
    assert main(["runs", str(folder / "empty")]) == 2
    assert "no training run in" in capsys.readouterr().err
    (folder / "young" / "config.json").write_text("{")
    assert main(["runs", str(folder), "--json"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2 and "young is left out" in shown.err
