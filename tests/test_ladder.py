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
    ("cli", "__main__", "integrations", "testing"),
    ("experiment", "model", "predict", "pretrain", "doctor", "serve"),
    ("plan",),
    ("population",),
    ("train", "evaluate", "report"),
    ("losses", "checkpoints", "runs"),
    ("answers",),
    ("generate",),
    ("methods", "prompts", "weights", "data"),
    ("forward",),
    ("backbones", "tasks"),
    ("sharding", "runtime", "metrics"),
    ("loggers",),
    ("processes", "disk", "signals", "lines"),
    ("config", "assets", "trees"),
)
RUNG = {room: len(LADDER) - i for i, rooms in enumerate(LADDER) for room in rooms}
ALLOWED = {
    ("prompts", "methods"),  # a prompt is saved as what it injects
    ("prompts", "weights"),  # and read by the same readers of safetensors and pickles
    ("__main__", "cli"),
}
FORBIDDEN = {"torch", "tensorflow"}
SLOW = {"transformers", "tensorflow_datasets", "grain", "pandas", "pyarrow", "sklearn", "sacrebleu"}
SLOW |= {"seqeval", "scipy", "matplotlib", "orbax", "rouge_score", "huggingface_hub"}
IMPORTS = ast.Import | ast.ImportFrom
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


def obstacles(path):
    """What a file imports that is forbidden, or is not below its own room."""
    here = room(path)
    assert here in RUNG, f"{here} is a room without a rung"
    for name in imports(ast.parse(path.read_text())):
        top, _, rest = name.partition(".")
        there = rest.partition(".")[0]
        if top in FORBIDDEN:
            yield name
        elif top == "prompt_jax" and there in RUNG and there != here:
            if RUNG[there] >= RUNG[here] and (here, there) not in ALLOWED:
                yield name


def test_imports_go_downwards():
    upwards = [f"{path} imports {name}" for path in FILES for name in obstacles(path)]
    assert not upwards, "\n".join(upwards)


def test_slow_packages_are_imported_where_they_are_used():
    found = []
    for path in FILES:
        if path.name == "embedded_tasks.py":  # A TFDS builder is a subclass of TFDS's.
            continue
        tops = [n for n in ast.parse(path.read_text()).body if isinstance(n, IMPORTS)]
        names = {name.partition(".")[0] for name in imports(ast.Module(tops, []))}
        found += [f"{path} imports {name} at its top" for name in names & SLOW]
    assert not found, "\n".join(found)


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


def test_benchmarks_use_what_is_there():
    """They run for minutes and seldom, so a name that moved would go unseen."""
    for path in sorted((PACKAGE.parent / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("prompt_jax"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{path.name}: {node.module}.{alias.name}"
