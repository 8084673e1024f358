"""The worked example of CONTRIBUTING.md is a method that holds to the laws."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prompt_jax.config import METHOD_KINDS

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PLACE = re.compile(r"`(\w+/[\w/]+\.py)`")
TABLE = re.compile(r"in `(\w+)` of `")


def follow(page, root):
    """Does with every block of a page what the paragraph before it says."""
    words, *rest = BLOCK.split(page)
    for block, after in zip(rest[::2], rest[1::2], strict=True):
        how = words.strip().rpartition("\n\n")[2]
        block, words = re.sub(r"^ {3}", "", block, flags=re.M), after
        path, table = root / PLACE.findall(how)[0], TABLE.search(how)
        if "new file" in how:
            assert not path.exists()
            path.write_text(block)
            continue
        text = path.read_text()
        if table:
            at = text.index("\n}", text.index(f"\n{table[1]}")) + 1
        elif "among the imports" in how:
            at = text.rindex("\nfrom ") + 1
        else:
            assert "at the end of" in how, how
            at = len(text)
        path.write_text(text[:at] + block + text[at:])


@pytest.mark.slow
def test_the_toy_method_of_contributing(tmp_path):
    """As a stranger who follows the page: in a copy, to the letter, with the laws it names."""
    for name in ("prompt_jax", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    page = (ROOT / "CONTRIBUTING.md").read_text()
    follow(page[page.index("## A new method") : page.index("## A new family")], tmp_path)
    law = "query_shift and t5 and (training_lowers or gradient_is)"
    begin = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*begin, "-m", "slow or not slow", "tests/test_laws.py", "-k", law],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr


def test_backbones_know_no_method():
    """They know sockets only: no file of theirs names a method's config or file."""
    words = {config.__name__ for config in METHOD_KINDS.values()} | {"prompt_jax.methods"}
    for path in (ROOT / "prompt_jax" / "backbones").rglob("*.py"):
        assert not [word for word in words if word in path.read_text()], path
