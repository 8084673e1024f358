"""The public names are typed: an editor completes them, and a misspelt keyword is an error."""

import ast
import json
import shutil
import subprocess
from pathlib import Path

import pytest

import prompt_jax

PACKAGE = Path(prompt_jax.__file__).parent


def test_editors_see_the_public_names_and_no_other():
    block = next(
        node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.If)
    )  # fmt: skip
    homes = {
        alias.asname: node.module.removeprefix("prompt_jax.")
        for node in block.body
        for alias in node.names
    }
    assert homes == prompt_jax._HOMES
    assert (PACKAGE / "py.typed").exists()


def test_a_misspelt_keyword_is_an_error(tmp_path):
    if shutil.which("pyright") is None:
        pytest.skip("pyright is not installed")
    program = tmp_path / "program.py"
    program.write_text(
        "import prompt_jax as pj\n"
        "pj.PromptTuningConfig(num_virtual_tokns=3)\n"
        "pj.PromptTuningConfig(num_virtual_tokens=3)\n"
        "method = pj.PromptTuningConfg\n"
        "pj.load_backbone(1)\n"
        "loss = pj.loss_fn(pj.LoraConfig(r=4), pj.load_backbone('embedded'))\n"
    )
    settings = {"include": ["."], "extraPaths": [str(PACKAGE.parent)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        ["pyright", "--outputjson", "-p", str(tmp_path)], capture_output=True, text=True
    )
    errors = json.loads(done.stdout)["generalDiagnostics"]
    lines = {error["range"]["start"]["line"] + 1 for error in errors}
    assert lines == {2, 4, 5}, errors
    assert "num_virtual_tokns" in errors[0]["message"]
