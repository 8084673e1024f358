"""How commands print the lines of a run."""

import contextlib
import json
import os
import sys
from types import SimpleNamespace

import pytest

from prompt_jax.cli.output import Output
from prompt_jax.lines import Line, Pace, Panel, in_part

PANEL = Panel("runs/a", [["accuracy", "test"], ["tuned [x]", "0.5"]], {"saved in": "a"}, ["go on"])
LINES = [
    "task a: 4 rows",
    "warning: few rows",
    Line("step 3", {"step": 3, "metrics": {"loss": float("nan"), "score": 0.5}}),
    Line("| accuracy | test |", {"results": {"tuned": {"test": 0.5}}}, PANEL),
]


def printed(output, capsys):
    for line in LINES:
        output.say(line)
    return capsys.readouterr().out.splitlines()


def test_text_is_the_line_itself(capsys):
    assert printed(Output(), capsys) == LINES


def test_quiet_leaves_warnings_and_results(capsys):
    assert printed(Output(quiet=True), capsys) == [LINES[1], LINES[3]]


def test_json_has_an_object_a_line(capsys):
    rows = [json.loads(line) for line in printed(Output(log_format="json"), capsys)]
    assert [row["level"] for row in rows] == ["info", "warning", "info", "result"]
    assert rows[1]["message"] == "few rows"
    assert (rows[2]["step"], rows[2]["metrics"]) == (3, {"loss": None, "score": 0.5})
    assert rows[3]["results"] == {"tuned": {"test": 0.5}}


def test_results_of_a_part_are_plain_lines(capsys):
    in_part(Output(quiet=True).say)(LINES[3])
    assert not capsys.readouterr().out
    in_part(Output(log_format="json").say)(LINES[3])
    row = json.loads(capsys.readouterr().out)
    assert row["level"] == "info" and row["results"] == {"tuned": {"test": 0.5}}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of Unix")
def test_a_terminal_shows_a_panel(monkeypatch):
    parent, child = os.openpty()
    with os.fdopen(child, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        for line in LINES:
            Output().say(line)
    # What is written may come in parts; behind the last one there is an error, or nothing.
    parts: list[bytes] = []
    with contextlib.suppress(OSError):
        while part := os.read(parent, 65536):
            parts.append(part)
    os.close(parent)
    text = b"".join(parts).decode()
    assert "step 3\r\n" in text and "runs/a" in text and "| accuracy" not in text
    assert all(word in text for word in ("tuned [x]", "saved in", "next", "go on"))


def test_long_work_says_how_far_it_is(monkeypatch):
    clock = iter([0.0, 5.0, 12.0, 15.0, 30.0, 45.0])
    monkeypatch.setattr("prompt_jax.lines.time", SimpleNamespace(monotonic=lambda: next(clock)))
    lines = []
    pace = Pace(lines.append, "scoring")
    for done in (100, 240, 300, 600, 1000):
        pace(done, 1000)
    assert lines == [
        "scoring: 240 of 1,000 rows, 0:38 left",
        "scoring: 600 of 1,000 rows, 0:20 left",
    ]
    assert lines[0].values == {"rows": 240, "total": 1000}
