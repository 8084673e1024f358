"""A table of a paper: runs are scored once, and stand beside the paper's figures."""

import json
import shutil

import pytest

from prompt_jax import cli

PAPER = """
from prompt_jax import PaperConfig, PaperRow, PaperTable

rows = (
    PaperRow("Films", "--data.task TASK", seeds=2, published={"average": 90.0, "ensemble": 91.25}),
    PaperRow("Films, F1", prompt="Films", evaluate="--data.task TASK", metric="macro_f1"),
)
config = PaperConfig(
    title="A paper",
    config="{size}.py",
    sizes=("tiny",),
    published_size="large",
    tables={"1": PaperTable("Reviews", rows)},
)
"""


@pytest.fixture
def paper(run, tmp_path):
    """A paper whose two runs are done."""
    task = json.loads((run / "config.json").read_text())["data"]["task"]
    path = tmp_path / "paper.py"
    path.write_text(PAPER.replace("TASK", task))
    shutil.copy(run.parent / "config.py", tmp_path / "tiny.py")
    for seed in (0, 1):
        folder = tmp_path / f"out/tiny/1/films/{seed}"
        shutil.copytree(run, folder)
        values = json.loads((folder / "config.json").read_text())
        values["train"]["seed"] = seed
        (folder / "config.json").write_text(json.dumps(values))
    return path


def reproduce(paper, *flags):
    return [
        *("reproduce", str(paper), "--table", "1", "--size", "tiny"),
        *("--out", str(paper.parent / "out"), *flags),
    ]


@pytest.mark.slow
def test_a_table_stands_beside_the_figures_of_the_paper(paper, capsys):
    out = paper.parent / "out"
    arguments = reproduce(paper, "--flags=--train.steps 2")
    assert cli.main(arguments) == 0
    table = (out / "tiny/1/table.md").read_text()
    scores = json.loads((out / "tiny/1/scores.json").read_text())
    ensemble, first, second = (scores["Films"][name] for name in ("ensemble", "0", "1"))
    accuracy, f1 = (100 * first["metrics"][name] for name in ("accuracy", "macro_f1"))
    assert ensemble["metrics"] == first["metrics"] == second["metrics"]
    assert ensemble["commands"] == [*first["commands"], *second["commands"]]
    head, _, first, second = table.splitlines()[2:]
    assert table.startswith("# A paper: Reviews\n") and table in capsys.readouterr().out
    assert head == (
        "|  | average, tiny here | ensemble, tiny here | average, large in the paper | "
        "ensemble, large in the paper |"
    )
    assert first == f"| Films | {accuracy:.1f} ± 0.0 | {accuracy:.1f} | 90.0 | 91.2 |"
    assert second == f"| Films, F1 | {f1:.1f} ± 0.0 |  |  |  |"
    # Scores that are there are not taken again.
    shutil.rmtree(out / "tiny/1/films/0/prompt/", ignore_errors=False)
    (out / "tiny/1/films/0/prompt").mkdir()
    assert cli.main(arguments) == 0 and (out / "tiny/1/table.md").read_text() == table
    # Others are: this prompt is gone.
    paper.write_text(paper.read_text().replace('"--data.task', '"--train.margin 0.2 --data.task'))
    assert cli.main(arguments) == 2 and "no prompt" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--flags=--train.steps 3"], ["--flags", "--train.steps 3"]])
def test_a_finished_run_is_not_that_of_other_flags(flags, paper, capsys):
    assert cli.main(reproduce(paper, *flags)) == 2
    message = "films/0 was trained with another config: train.steps: 2 -> 3. Reproduce without"
    assert message in capsys.readouterr().err
    assert not (paper.parent / "out/tiny/1/scores.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--table", "2"], "unknown table '2'; allowed: 1"),
        (["--size", "small"], "unknown size 'small'; allowed: tiny"),
    ],
)
def test_tables_and_sizes_that_a_paper_has_not(change, message, tmp_path, capsys):
    (tmp_path / "paper.py").write_text(PAPER)
    words = ["reproduce", str(tmp_path / "paper.py"), "--table", "1", "--size", "tiny", *change]
    assert cli.main(words) == 2 and message in capsys.readouterr().err
