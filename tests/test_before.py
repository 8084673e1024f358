"""What an earlier version wrote still loads: prompts, a run that was stopped, a store.

The files of `tests/before` were written by version 0.1.0 before methods, answers and the server had
rooms of their own.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.prompts import load_prompt
from prompt_jax.runs import read_config, read_metrics
from prompt_jax.serve import Store
from prompt_jax.testing import Subject, tiny

BEFORE = Path(__file__).parent / "before"
PROMPTS = sorted(path.name for path in (BEFORE / "prompts").iterdir())


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_gives_the_logits_that_it_gave(name):
    prompt = load_prompt(BEFORE / "prompts" / name)
    backbone = tiny("bert" if name == "head" else "t5")
    subject = Subject(backbone, prompt.method)
    batch = subject.batch()
    injection = prompt.on(backbone).injection(batch.task_ids)
    expected = np.load(BEFORE / "logits.npz")[name]
    np.testing.assert_allclose(subject.logits(injection, batch), expected, atol=2e-5)


@pytest.mark.slow
def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BEFORE / "run", "run")
    # Forty rows to test it on, instead of the 6,000 of all the task's test sets.
    config = Path("run/config.json")
    few = '"test": "embedded:sentiment/validation[:40]"'
    config.write_text(config.read_text().replace('"test": null', few))
    assert read_config(Path("run")).train.steps == 6
    earlier = read_metrics(Path("run"))
    assert cli.main(["train", "--out", "run", "--resume"]) == 0
    rows = read_metrics(Path("run"))
    assert [row["step"] for row in rows] == list(range(7))
    assert rows[:3] == earlier[:3]
    assert load_prompt("run").method.num_virtual_tokens == 4


def test_a_store_is_read():
    store = Store(BEFORE / "store")
    assert [str(entry) for entry in store.scan().entries] == ["films@1"]
    assert store.load("films@live").rows.shape == (4, 256)
