"""Shards of a file on a Ray of one machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prompt_jax import cli

ray = pytest.importorskip("ray")
SCRIPT = Path(__file__).parent.parent / "launch" / "ray_predict.py"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("quick_commands")]


def answered(folder, flags):
    command = [sys.executable, str(SCRIPT), "--shards", "2", "--output", str(folder), *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_shards_are_the_whole(run, tmp_path):
    inputs, whole, parts = (tmp_path / name for name in ("in.txt", "whole.jsonl", "parts"))
    inputs.write_text("".join(f"a good film {i}\n" for i in range(5)))
    flags = ["--prompt", str(run), "--input", str(inputs)]
    assert cli.main(["predict", *flags, "--output", str(whole)]) == 0
    done = answered(parts, flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "5 answers"
    rows = [json.loads(line) for path in parts.glob("*.jsonl") for line in path.open()]
    rows.sort(key=lambda row: row["index"])
    wanted = [json.loads(line) for line in whole.open()]
    assert [(r["index"], r["input"]) for r in rows] == [(r["index"], r["input"]) for r in wanted]
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in wanted]
    # A shard that was cut short goes on, and the others are left alone.
    (parts / "00001.done").unlink()
    cut = (parts / "00001.jsonl").read_text().splitlines(keepends=True)
    (parts / "00001.jsonl").write_text(cut[0] + cut[1][:9])
    again = answered(parts, flags)
    assert again.returncode == 0 and (parts / "00001.jsonl").read_text() == "".join(cut)


def test_what_a_shard_says_is_told(tmp_path):
    flags = ["--prompt", str(tmp_path / "none"), "--input", "x.txt"]
    done = answered(tmp_path / "parts", flags)
    assert done.returncode and "shard 0: error: " in done.stderr
    command = [sys.executable, str(SCRIPT), "--shards", "0", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--shards is at least 1, got 0" in done.stderr
