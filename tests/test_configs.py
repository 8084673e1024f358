"""Every config that ships is one, and its docstring's command starts it."""

import ast
import re
from pathlib import Path

import pytest

from prompt_jax.cli.arguments import bound, starting_config
from prompt_jax.config import Config, resolved
from prompt_jax.tasks import resolve

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(
    path
    for path in (ROOT / "configs").rglob("*.py")
    if "PretrainConfig" not in path.read_text(encoding="utf-8")
)
LESTER = sorted((ROOT / "configs" / "lester2021").glob("*.py"))
COMMAND = re.compile(r"^prompt-jax train (configs/\S+\.py)(.*)$", re.MULTILINE)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_config_is_started_by_the_command_that_it_tells(path):
    config = bound(str(path), Config)
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    named = COMMAND.findall(told)
    assert named and all(ROOT / name == path for name, _ in named)
    assert starting_config([str(path)]) == (config, [])


@pytest.mark.parametrize("path", LESTER, ids=lambda path: path.stem)
def test_the_settings_of_lester_et_al(path):
    config = bound(str(path), Config)
    assert config.backbone == f"google/t5-{path.stem}-lm-adapt"
    assert (config.method.num_virtual_tokens, config.method.init) == (100, "class_labels")
    train = resolved(config, 1.0).train
    assert (train.optimizer, train.learning_rate, train.schedule) == ("adafactor", 0.3, "constant")
    assert (train.steps, train.batch_size, train.weight_decay) == (30_000, 32, 1e-5)
    assert config.method.num_virtual_tokens + config.data.max_source_length == 512
    assert resolve(config.data.task, config.task, ["passage", "question", "label"]).labels == (
        "False",
        "True",
    )


def test_all_sizes_are_there():
    assert {path.stem for path in LESTER} == {"small", "base", "large", "xl", "xxl"}
