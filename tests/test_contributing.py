"""The worked example of the page about methods is a method that holds to the laws."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prompt_jax.config import method_kinds

ROOT = Path(__file__).parent.parent
STEP = re.compile(r"^\d\. .*?`(\w+\.py)`.*?```python\n(.*?)```", re.DOTALL | re.MULTILINE)
PAGE = ROOT / "docs" / "how-to" / "write_a_method.md"


def follow(page, folder):
    """Writes the block of every numbered step into the file that the step names first."""
    for name, block in STEP.findall(page):
        (folder / name).write_text(re.sub(r"^ {3}", "", block, flags=re.M))


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "JAX_PLATFORMS": "cpu"}
    # A stranger has few plugins of pytest; importing all that the suite brings takes longer.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_of_a_method(tmp_path, tiny_folder, task_file):
    """As a stranger who follows the page, in an empty folder: no file of the package is touched."""
    folder = tmp_path / "toy"
    folder.mkdir()
    follow(PAGE.read_text(), folder)
    assert {path.name for path in folder.iterdir()} == {
        *("query_shift.py", "test_query_shift.py", "query_shift_recipe.py"),
    }
    laws = "training_lowers or gradient_is or saved_equals"
    out = run(folder, "pytest", "-q", "-p", "no:cacheprovider", "test_query_shift.py", "-k", laws)
    assert "3 passed" in out
    steps = ["--train.steps", "2", "--train.eval-every", "2", "--train.batch-size", "4"]
    small = ["--backbone", str(tiny_folder), "--data.task", f"file:{task_file}"]
    run(folder, "prompt_jax", "train", "query_shift_recipe.py", *steps, *small)
    assert '"kind": "query_shift"' in (folder / "runs/query_shift/config.json").read_text()


def test_backbones_know_no_method():
    """They know sockets only: no file of theirs names a method's config or file."""
    words = {config.__name__ for config in method_kinds().values()} | {"prompt_jax.methods"}
    for path in (ROOT / "prompt_jax" / "backbones").rglob("*.py"):
        assert not [word for word in words if word in path.read_text()], path
