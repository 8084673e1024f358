"""Files of inputs become files of answers, whatever interrupts the work."""

import dataclasses
import gzip
import io
import json
import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from prompt_jax import disk
from prompt_jax import predict as module
from prompt_jax.answers import answer
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.forward import Injection
from prompt_jax.predict import parse_shard, predict, read_inputs
from prompt_jax.tasks import Task
from prompt_jax.weights import load_backbone

LABELS = ("good", "bad")
TASK = Task(name="file:x", source="film: {sentence}", target="{target}", labels=LABELS)
PAIRS = dataclasses.replace(TASK, source="{premise} so {hypothesis}")
TEXTS = [f"number {i} is {'long and ' * (i * 7 % 5)}good" for i in range(23)]
DATA = DataConfig()
RANK = EvalConfig(batch_size=2)


@pytest.fixture(scope="module")
def backbone(tiny_folder):
    return load_backbone(tiny_folder, dtype="float32")


@pytest.fixture(scope="module")
def injection():
    return Injection(np.asarray(jax.random.normal(jax.random.key(1), (3, 16)) * 3))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


@pytest.fixture
def run(backbone, injection, source, tmp_path, monkeypatch):
    """Answers `source`, four inputs a chunk."""
    monkeypatch.setattr(module, "CHUNK", 2)

    def run(output="out.jsonl", **options):
        path = tmp_path / output
        settings = {"task": TASK, "injection": injection, "input_path": source, "eval": RANK}
        settings["output_path"] = path
        count = predict(backbone, data=DATA, **{**settings, **options})
        return path, count

    return run


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_for_every_input_in_their_order(run, backbone, injection):
    path, count = run()
    found = records(path)
    expected = answer(
        backbone, injection, [f"film: {t}" for t in TEXTS], TASK, data=DATA, eval=RANK
    )
    odds = np.exp(expected.scores) / np.exp(expected.scores).sum(1, keepdims=True)
    assert count == len(found) == len(TEXTS)
    assert [list(record) for record in found] == [["index", "input", "prediction", "scores"]] * 23
    assert [record["index"] for record in found] == list(range(23))
    assert [record["input"] for record in found] == [f"film: {text}" for text in TEXTS]
    assert [record["prediction"] for record in found] == expected.predictions
    assert all(list(record["scores"]) == list(LABELS) for record in found)
    np.testing.assert_allclose([list(r["scores"].values()) for r in found], odds, atol=1e-5)
    assert all(max(r["scores"], key=r["scores"].get) == r["prediction"] for r in found)


def test_generation_has_no_scores(run, backbone, injection):
    task = dataclasses.replace(TASK, labels=(), kind="generation")
    settings = EvalConfig(batch_size=8, max_new_tokens=4)
    path, _ = run(task=task, eval=settings)
    texts = [f"film: {text}" for text in TEXTS]
    expected = answer(backbone, injection, texts, task, data=DATA, eval=settings).predictions
    assert [record["prediction"] for record in records(path)] == expected
    assert all(set(record) == {"index", "input", "prediction"} for record in records(path))


def test_an_output_cut_anywhere_is_continued_to_the_same_bytes(run, tmp_path):
    whole = run()[0].read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    cuts = {0, 1, 5, ends[0] - 1, ends[0], ends[0] + 1, ends[3], ends[3] + 20, ends[4]}
    cuts |= {ends[8] - 2, ends[21], len(whole) - 1}
    path = tmp_path / "cut.jsonl"
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        _, added = run("cut.jsonl")
        assert path.read_bytes() == whole
        assert added == 23 - whole[:cut].count(b"\n")


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_kill_9_leaves_an_output_that_can_be_continued(run, tiny_folder, source, tmp_path):
    program = textwrap.dedent(f"""
        import os, signal
        import jax, numpy as np
        from prompt_jax import predict as module
        from prompt_jax.config import DataConfig, EvalConfig
        from prompt_jax.forward import Injection
        from prompt_jax.tasks import Task
        from prompt_jax.weights import load_backbone

        module.CHUNK = 2
        injection = Injection(np.asarray(jax.random.normal(jax.random.key(1), (3, 16)) * 3))
        task = Task(name="file:x", source={TASK.source!r}, target="{{target}}", labels={LABELS!r})

        def report(done, total):
            if done == 10:
                os.kill(os.getpid(), signal.SIGKILL)

        module.predict(
            load_backbone({str(tiny_folder)!r}, dtype="float32"), injection, task,
            {str(source)!r}, {str(tmp_path / "killed.jsonl")!r},
            data=DataConfig(), eval=EvalConfig(batch_size=2), progress=report,
        )
    """)
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(records(tmp_path / "killed.jsonl")) == 8
    _, added = run("killed.jsonl")
    assert added == 15
    assert (tmp_path / "killed.jsonl").read_bytes() == run()[0].read_bytes()


def test_shards_are_rows_i_of_n(run):
    whole = records(run()[0])
    for index in range(3):
        path, count = run(f"{index}.jsonl", shard=(index, 3))
        found = records(path)
        assert count == len(found) == len(whole[index::3])
        for one, other in zip(found, whole[index::3], strict=True):
            assert (one["index"], one["input"]) == (other["index"], other["input"])
            assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)
    path, count = run("none.jsonl", shard=(30, 31))
    assert (path.read_text(), count) == ("", 0)


def test_progress_counts_what_this_call_answers(run):
    seen = []
    path, _ = run(progress=lambda *counts: seen.append(counts))
    assert seen[:3] == [(2, 23), (4, 23), (6, 23)] and seen[-1] == (23, 23)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:8]))
    del seen[:]
    run(progress=lambda *counts: seen.append(counts))
    assert seen[0] == (2, 19) and seen[-1] == (19, 19)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\ntwo\r\nthr\u2028ee"),
        ("a.csv", 'id,sentence\n1,one\n2,two\n3,"thr\u2028ee"\n'),
        ("a.tsv", "sentence\ttarget\none\tgood\ntwo\tnonsense\nthr\u2028ee\t\n"),
        ("a.jsonl", '{"sentence": "one"}\n{"sentence": "two"}\n{"sentence": "thr\\u2028ee"}\n'),
        ("a.csv", "input\none\ntwo\nthr\u2028ee\n"),
        ("a.txt", "\ufeffone\ntwo\nthr\u2028ee\n"),
    ],
)
def test_formats(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode())
    found = read_inputs(path, TASK)
    assert found == [(0, "film: one"), (1, "film: two"), (2, "film: thr\u2028ee")]


def test_texts_that_are_compressed_or_no_utf8(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n"))
    assert read_inputs(path, TASK) == [(0, "film: one"), (1, "film: two")]
    # As a terminal hands bytes on that are no UTF-8.
    assert read_inputs([b"caf\xe9".decode(errors="surrogateescape")], TASK) == [
        (0, "film: caf\N{REPLACEMENT CHARACTER}")
    ]


def test_templates_of_several_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("premise,hypothesis\nit rains,it is wet\n")
    assert read_inputs(path, PAIRS) == [(0, "it rains so it is wet")]


def test_standard_output(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole, _ = run()
    for _ in range(2):  # There is nothing to continue, and nothing in the way.
        assert run(output_path="-")[1] == 23
        assert capsys.readouterr().out == whole.read_text()
    assert not (tmp_path / "-").exists()


def test_standard_input(run, monkeypatch):
    whole = records(run()[0])
    content = io.BytesIO("\n".join(TEXTS).encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(content))
    assert records(run("stdin.jsonl", input_path="-")[0]) == whole


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt is empty; give at least one line"),
        ("a.txt", b"\n \n", "a.txt is empty"),
        ("a.txt", b"one\n\nthree\n", "a.txt line 2: empty source"),
        ("a.txt", b"one\ncaf\xe9\n", "a.txt line 2: byte 0xe9 at offset 7 is not UTF-8"),
        ("a.csv", b"sentence\ncaf\xe9\n", "line 2: byte 0xe9"),
        ("a.csv", b"text,id\nx,1\n", "no column 'sentence'; there are: text, id"),
        ("a.csv", b"sentence\n", "has no rows"),
        ("a.jsonl", b'{"sentence": "x"}\n{"sentence": ""}\n', "line 2: empty source"),
        ("a.pdf", b"x", "unknown file type"),
    ],
)
def test_inputs_that_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_inputs(path, TASK)


def test_no_such_input(tmp_path):
    with pytest.raises(InputError, match="no file .*a.txt; give a file with an input a line"):
        read_inputs(tmp_path / "a.txt", TASK)


def test_lines_for_a_template_of_several_columns(source):
    with pytest.raises(InputError, match="needs the columns premise, hypothesis; give a .csv"):
        read_inputs(source, PAIRS)


@pytest.mark.parametrize("shard", [(3, 3), (-1, 2), (0, 0)])
def test_a_shard_that_does_not_exist(run, shard):
    with pytest.raises(InputError, match=f"shard {shard[0]}/{shard[1]} does not exist"):
        run(shard=shard)


def test_parse_shard():
    assert parse_shard("2/8") == (2, 8)
    for text in ("2", "a/b", "-1/3", "1/", ""):
        with pytest.raises(InputError, match="a shard is written i/n"):
            parse_shard(text)


def test_a_complete_output_stays_unless_asked(run, injection):
    path, _ = run()
    before = path.read_bytes()
    with pytest.raises(InputError, match="out.jsonl is complete; --overwrite"):
        run(injection=Injection(-injection.prompt))
    assert path.read_bytes() == before
    _, count = run(injection=Injection(-injection.prompt), overwrite=True)
    assert count == 23 and path.read_bytes() != before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("notes of mine", "line 1 does not answer the next input"),
        ("notes of mine\nand more", "line 1 is no JSON object"),
        ("[1]\n", "line 1 is no JSON object"),
        ('{"index": 0, "input": "film: another"}\n', "line 1 does not answer input 0"),
        ('{"index": 1, "input": "film: number 0 is good"}\n', "line 1 does not answer input 0"),
        ("{}\n" * 24, "it has 24 lines for 23 inputs"),
    ],
)
def test_a_file_of_something_else_is_not_touched(run, tmp_path, content, reason):
    (tmp_path / "out.jsonl").write_text(content)
    with pytest.raises(InputError, match=f"holds other answers: {reason}; choose another"):
        run()
    assert (tmp_path / "out.jsonl").read_text() == content


def test_answers_of_another_prompt_are_not_continued(run, injection):
    path, _ = run()
    begun = b"".join(path.read_bytes().splitlines(keepends=True)[:6])
    for options in (
        {"injection": Injection(-injection.prompt)},
        {"task": dataclasses.replace(TASK, labels=("good", "ugly"))},
        {
            "task": dataclasses.replace(TASK, labels=(), kind="generation"),
            "eval": EvalConfig(max_new_tokens=4),
        },
    ):
        path.write_bytes(begun)
        with pytest.raises(InputError, match="line [15] comes from another prompt or other"):
            run(**options)
        assert path.read_bytes() == begun


def test_outputs_that_cannot_be_written(run, source, tmp_path):
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        run(".")
    with pytest.raises(InputError, match="in.txt is the input too"):
        run("in.txt", overwrite=True)
    assert source.read_text().startswith(TEXTS[0])
    with pytest.raises(InputError, match="cannot be written: .*; choose another place"):
        run("in.txt/out.jsonl")
    with (tmp_path / "out.jsonl").open("a") as file:
        disk.lock(file, tmp_path, "")
        for overwrite in (False, True):
            with pytest.raises(InputError, match="out.jsonl is in use by another process; wait"):
                run(overwrite=overwrite)
    path, _ = run("new/folder/out.jsonl")
    assert path.exists()
