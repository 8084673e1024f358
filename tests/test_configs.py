"""Every config that ships is one, and its docstring's command starts it."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from prompt_jax.cli.arguments import bound, starting_config
from prompt_jax.cli.reproduce import Work, config_of
from prompt_jax.config import (
    Config,
    InputError,
    PaperConfig,
    PaperRow,
    PaperTable,
    TaskConfig,
    resolved,
)
from prompt_jax.tasks import known, resolve

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(
    path
    for path in (ROOT / "configs").rglob("*.py")
    if not re.search("PretrainConfig|PaperConfig", path.read_text(encoding="utf-8"))
)
LESTER = [path for path in CONFIGS if path.parent.name == "lester2021"]
PAPERS = sorted((ROOT / "configs").rglob("paper.py"))
TABLES = [
    pytest.param(path, table, id=f"{path.parent.name} {table}")
    for path in PAPERS
    for table in bound(str(path), PaperConfig).tables
]
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


@pytest.mark.parametrize(("path", "table"), TABLES)
def test_every_run_of_a_paper_is_a_config(path, table):
    paper = bound(str(path), PaperConfig)
    assert f"prompt-jax reproduce {path.relative_to(ROOT)} --table " in path.read_text()
    work = Work(paper, path, table, paper.sizes[0], "", "--train.steps 7")
    runs = [config_of(work.training(row, 1)) for row in work.table.rows if row.train]
    assert len({repr(dataclasses.replace(run, out="x")) for run in runs}) == len(runs)
    for run in runs:
        assert (run.train.seed, run.train.steps) == (1, 7)
        assert run.task.source or all(known(name, run.task) for name in run.data.names)
    for row in work.table.rows:
        words = work.scoring(row, 0)
        data = [words[i + 1] for i, word in enumerate(words) if word == "--data.task"]
        assert all(known(name, TaskConfig()) for name in data)
    assert len(work.commands()) >= len(work.table.rows)


def test_published_figures_of_the_paper_s_ensemble():
    """The average over SuperGLUE, of tasks with two metrics their mean, is the one it prints."""
    (path,) = (path for path in PAPERS if path.parent.name == "lester2021")
    figures = {}
    for row in bound(str(path), PaperConfig).tables["3"].rows:
        figures.setdefault(row.name.partition(",")[0], []).append(row.published)
    for column, average in (("average", 90.5), ("best", 91.0), ("ensemble", 91.3)):
        means = [sum(f[column] for f in rows) / len(rows) for rows in figures.values()]
        assert len(means) == 8 and abs(sum(means) / 8 - average) < 0.06


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((PaperRow("a"),), "table 't', row 'a': give train or prompt, one of the two"),
        ((PaperRow("a", prompt="b"),), "unknown row above, in table 't', row 'a' 'b'"),
        ((PaperRow("a", "--x", published={"worst": 1.0}),), "unknown column, .*average, best"),
    ],
)
def test_tables_that_cannot_be(rows, message):
    with pytest.raises(InputError, match=message):
        PaperConfig(title="", config="", sizes=("s",), tables={"t": PaperTable("", rows)})
