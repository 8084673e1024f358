"""Imports go downwards only, and the package stays light to import."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "prompt_jax"
# From the top rung down; rooms of a rung do not import each other unless ALLOWED says so.
LADDER = (
    ("cli", "__main__", "integrations"),
    ("experiment", "model", "predict", "pretrain", "doctor", "serve"),
    ("plan", "population"),
    ("train", "evaluate", "report"),
    ("losses", "generate", "checkpoints", "runs"),
    ("methods", "prompts", "weights", "data"),
    ("backbones", "tasks", "metrics"),
    ("sharding", "runtime"),
    ("processes", "disk", "signals"),
    ("config", "assets"),
)
RUNG = {room: len(LADDER) - i for i, rooms in enumerate(LADDER) for room in rooms}
ALLOWED = {
    ("prompts", "methods"),  # a prompt is saved as what it injects
    ("prompts", "weights"),  # and read by the same readers of safetensors and pickles
    ("losses", "generate"),  # a loss over label words scores them as ranking does
    ("__main__", "cli"),
}
FORBIDDEN = {"torch", "tensorflow"}
SLOW = {"transformers", "tensorflow_datasets", "grain", "pandas", "pyarrow", "sklearn", "sacrebleu"}
SLOW |= {"seqeval", "scipy", "matplotlib", "orbax", "rouge_score", "huggingface_hub"}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    here = room(path)
    assert here in RUNG, f"{here} is a room without a rung"
    for name in imports(ast.parse(path.read_text())):
        top, _, rest = name.partition(".")
        assert top not in FORBIDDEN, f"{path} imports {name}"
        there = rest.partition(".")[0]
        if top != "prompt_jax" or there in ("", here) or there not in RUNG:
            continue
        below = RUNG[there] < RUNG[here] or (here, there) in ALLOWED
        assert below, f"{path.name} in {here} imports {name}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_slow_packages_are_imported_where_they_are_used(path):
    tree = ast.parse(path.read_text())
    top_level = ast.Module([n for n in tree.body if not isinstance(n, ast.FunctionDef)], [])
    top_level.body = [n for n in top_level.body if isinstance(n, ast.Import | ast.ImportFrom)]
    builder = path.name == "embedded_tasks.py"  # a TFDS builder is a subclass of TFDS's
    found = {name.partition(".")[0] for name in imports(top_level)} & SLOW
    assert builder or not found, f"{path} imports {found} at its top"


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, prompt_jax; print(sorted({'jax', 'flax', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_no_other():
    import prompt_jax

    for name in prompt_jax.__all__:
        assert getattr(prompt_jax, name).__module__.startswith("prompt_jax")
    with pytest.raises(AttributeError, match="no attribute 'prompt'"):
        _ = prompt_jax.prompt


@pytest.mark.parametrize(
    "path", sorted((PACKAGE.parent / "benchmarks").glob("*.py")), ids=lambda p: p.stem
)
def test_benchmarks_use_what_is_there(path):
    """They run for minutes and seldom, so a name that moved would go unseen."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("prompt_jax"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
