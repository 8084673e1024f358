"""Several processes of two devices each: one prompt, one run folder, one end."""

import functools
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from xla import QUICK_COMPILE

import prompt_jax
from prompt_jax import cli
from prompt_jax.config import Config, DataConfig, DistributedConfig, InputError, TaskConfig
from prompt_jax.data import Batches, EncodeOptions, encode_examples
from prompt_jax.experiment.splits import load_data
from prompt_jax.processes import (
    arrays_of_all,
    check_alike,
    code,
    from_all,
    from_first,
    in_all,
    is_first,
    join,
    part_of,
    together,
)
from prompt_jax.prompts import load_prompt

STEPS, SAVED = 200, 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"process_id": 0}, "belong together, got None, None and 0; give all three"),
        ({"coordinator_address": "a:1"}, "belong together, got a:1, None and None"),
        ({"coordinator_address": "a:1", "num_processes": 0, "process_id": 0}, "at least 1, got 0"),
        ({"coordinator_address": "a:1", "num_processes": 2, "process_id": 2}, "0 to 1 .* got 2"),
        ({"coordinator_address": "a", "num_processes": 2, "process_id": 1}, "HOST:PORT.* got 'a'"),
    ],
)
def test_what_does_not_name_a_process(given, message):
    with pytest.raises(InputError, match=message):
        DistributedConfig(**given)


def test_one_process_is_the_first_and_alike():
    assert is_first() and from_first(b"tree") == b"tree" and from_all("here") == ["here"]
    check_alike(code())
    assert together(lambda: 3) == 3
    assert in_all(True) and not in_all(False) and part_of(7) == (0, 7)
    (arrays,) = arrays_of_all({"rows": np.arange(3)})
    assert arrays["rows"].tolist() == [0, 1, 2]


def test_jax_in_use_is_left_as_it_is():
    jax.devices()
    join(DistributedConfig())
    assert jax.process_count() == 1
    given = DistributedConfig(coordinator_address="a:1", num_processes=2, process_id=1)
    with pytest.raises(InputError, match="cannot join the others at a:1: .*; start all of them"):
        join(given)


def test_the_code_is_told_by_its_files():
    assert re.fullmatch("[0-9a-f]{16}", code()["the code of prompt_jax"])


def start(arguments, count, each=None):
    """So many processes of one command, which share a prompt's training."""
    address = free_address()
    return [
        process(
            ["-m", "prompt_jax", *arguments, *(each or [[]] * count)[i]]
            + [f"--distributed.coordinator-address={address}"]
            + [f"--distributed.num-processes={count}", f"--distributed.process-id={i}"]
        )
        for i in range(count)
    ]


def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def process(arguments):
    """A process of Python with two devices."""
    flags = f"--xla_force_host_platform_device_count=2 {QUICK_COMPILE}"
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ends(processes):
    """Exit codes and output of all; those that do not end by themselves are killed."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.02)
    for process in processes:
        process.kill()
    outputs = [process.communicate()[0] for process in processes]
    return [process.returncode for process in processes], outputs


def last_row(folder):
    """The last whole row of a run's metrics."""
    path = folder / "metrics.jsonl"
    rows = path.read_text().splitlines() if path.exists() else []
    whole = [row for row in rows if row.endswith("}")]
    return json.loads(whole[-1]) if whole else {"step": -1}


def wait_for(folder, step, processes):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        if last_row(folder)["step"] >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step}: {ends(processes)}")


def stop_and_resume(arguments, folder, step):
    """One of two processes is told to stop; two on another mesh go on to the end.

    Args:
      arguments: of the command, with flags of a mesh behind them.
      folder: whose metrics show how far the run is.
      step: behind which it is stopped.
    """
    stopped = start(arguments("--mesh.data=4", "--mesh.fsdp=1", "--mesh.tensor=1"), 2)
    wait_for(folder, step, stopped)
    stopped[1].terminate()
    codes, (said, silent) = ends(stopped)
    assert codes == [0, 0], said + silent
    assert "continue with --resume" in said and "step" not in silent.replace("preemption", "")
    mesh = ["--mesh.data=2", "--mesh.fsdp=2", "--mesh.tensor=1"]
    codes, outputs = ends(start(arguments("--resume", *mesh), 2))
    assert codes == [0, 0], outputs


@pytest.fixture
def command(tiny_folder, task_file):
    def made(out, *flags):
        return [
            "train", f"--backbone={tiny_folder}", f"--data.task=file:{task_file}", f"--out={out}",
            f"--train.steps={STEPS}", f"--train.checkpoint-every={SAVED}", "--train.batch-size=8",
            f"--train.eval-every={STEPS}", "--eval.batch-size=8", "--eval.max-new-tokens=4",
            # Sums in another order differ by a last bit, and steps of this size do not blow it up.
            "--train.learning-rate=0.03", *flags,
        ]  # fmt: skip

    return made


@pytest.mark.slow
def test_killed_stopped_and_resumed_equals_one_process(command, tmp_path):
    """Two processes, one killed; two again on another mesh, one told to stop; then one alone."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli.main(command(whole)) == 0
    killed = start(command(run), 2)
    wait_for(run, 2 * SAVED, killed)
    killed[1].kill()
    time.sleep(0.2)
    killed[0].kill()  # JAX would end it too, when it has missed the other for some while.
    ends(killed)
    reached = last_row(run)["step"]

    stopped = start(command(run, "--resume", "--mesh.fsdp=2", "--mesh.tensor=2"), 2)
    # Before its steps the file still has those of the killed run, and SIGTERM is not yet awaited.
    wait_for(run, reached + SAVED, stopped)
    stopped[1].terminate()
    codes, (said, silent) = ends(stopped)
    assert codes == [0, 0], said + silent
    at = re.search(r"stopped after step (\d+); continue with --resume", said)
    assert at and int(at[1]) < STEPS and "step" not in silent.replace("preemption", "")
    assert "4 cpu devices: data 1 x fsdp 2 x tensor 2" in said

    assert cli.main(command(run, "--resume", "--mesh.fsdp=1", "--mesh.tensor=1")) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    one, several = last(whole), last(run)
    assert one.keys() == several.keys() and any("prompt" in name for name in one)
    for name, leaf in one.items():
        # Sums over devices are in another order, and 200 steps make more of that.
        np.testing.assert_allclose(several[name], leaf, rtol=1e-4, atol=1e-4, err_msg=name)


def last(folder):
    """The state after the last step, by the names of its leaves."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        assert manager.latest_step() == STEPS
        kept = ocp.args.Composite(state=ocp.args.StandardRestore())
        return manager.restore(STEPS, args=kept)["state"]


@pytest.mark.slow
def test_tasks_at_once_equal_one_process(command, task_file, tmp_path):
    """Two tasks over two processes: stopped, and resumed on another mesh."""
    other = task_file.with_name("other.tsv")
    other.write_text(task_file.read_text().replace("film", "long and winding book"))
    tasks = [f"file:{path}" for path in (task_file, other)]

    def run(out, *flags):
        arguments = command(out, f"--data.tasks={','.join(tasks)}", *flags)
        return [argument for argument in arguments if not argument.startswith("--data.task=")]

    whole, several = tmp_path / "whole", tmp_path / "several"
    assert cli.main(run(whole)) == 0
    folders = [tasks[i].replace(":", "-").replace("/", "-") for i in range(2)]
    stop_and_resume(functools.partial(run, several), several / "tasks" / folders[0], SAVED)
    for folder in folders:
        rows = (several / "tasks" / folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == list(range(STEPS + 1))
        assert (several / "tasks" / folder / "prompt" / "adapter_config.json").is_file()
    one, parts = last(whole), last(several)
    for name, leaf in one.items():
        np.testing.assert_allclose(parts[name], leaf, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_sweep_in_two_processes_equals_one(command, tmp_path):
    """Stopped, and resumed on another mesh."""

    def run(out, *flags):
        # A few bits of a loss may not decide who goes on: these rates are far from each other.
        rates = ["--sweep.learning-rates", "0.001", "0.03", "0.1", "0.3", "--sweep.slots=2"]
        fewer = ["--train.steps=60", "--train.eval-every=60"]
        return ["sweep", *command(out)[1:], *fewer, *rates, "--sweep.budget=10h", *flags]

    whole, several = tmp_path / "whole", tmp_path / "several"
    assert cli.main(run(whole)) == 0
    stop_and_resume(functools.partial(run, several), several, 2 * SAVED)
    one, parts = (json.loads((out / "sweep.json").read_text()) for out in (whole, several))
    assert parts["winner"] == one["winner"]
    assert [line[:3] for line in parts["candidates"]] == [line[:3] for line in one["candidates"]]
    prompts = [load_prompt(out / "prompt").tuned for out in (whole, several)]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, *prompts)


@pytest.mark.slow
def test_a_comparison_in_two_processes_equals_one(command, tmp_path):
    def run(out):
        fewer = ["--train.steps=10", "--train.checkpoint-every=10", "--train.eval-every=10"]
        ways = ["--methods", "prompt_tuning", "--rivals", "tf_idf"]
        return ["compare", *command(out)[1:], *fewer, *ways]

    whole, several = tmp_path / "whole", tmp_path / "several"
    assert cli.main(run(whole)) == 0
    codes, (said, silent) = ends(start(run(several), 2))
    assert codes == [0, 0], said + silent
    assert "written: " in said and "step" not in silent and "written" not in silent
    one, parts = (json.loads((out / "compare.json").read_text()) for out in (whole, several))
    assert parts["without tuning"] == one["without tuning"]
    assert parts["methods"][0]["examples_per_second"] > 0
    prompts = [load_prompt(out / "prompt_tuning" / "prompt").tuned for out in (whole, several)]
    np.testing.assert_allclose(prompts[1]["prompt"], prompts[0]["prompt"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_processes_that_differ_end_before_a_step(command, tmp_path):
    rates = [[f"--train.weight-decay={rate}"] for rate in (0.3, 0.1)]
    codes, outputs = ends(start(command(tmp_path / "run"), 2, rates))
    assert codes == [2, 2], outputs
    message = "error: train.weight_decay is 0.1 in process 1 and 0.3 in process 0; start all"
    assert all(message in output for output in outputs)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_one_process_lacks_ends_all(command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    codes, outputs = ends(start(command(tmp_path / "run"), 2))
    assert codes == [2, 2], outputs
    assert all("error: process 0: " in output and "is not empty" in output for output in outputs)


def batches_of_file(path, cache):
    """How many rows this process tokenises, its batches, and the error of a row that fails."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(prompt_jax.__file__).parent / "assets" / "t5")
    task = TaskConfig(source="{text!cut} {more}", target="{label}")
    data = DataConfig(task=f"file:{path}", cache=cache)
    train = load_data(Config(task=task, data=data)).train
    counts = []

    def encode(examples, *rest):
        counts.append(len(examples))
        return encode_examples(examples, *rest)

    def batches(length):
        config = DataConfig(cache=cache, max_source_length=length)
        options = EncodeOptions(tokenizer="t5")
        return Batches(train, tokenizer, config, 8, 0, encode=encode, options=options)

    rows = batches(30)
    digest = hashlib.sha256()
    for step in range(0, len(rows), 40):
        for part in rows[step][:4]:
            digest.update(part.tobytes())
    tokenised = sum(counts)
    with pytest.raises(InputError) as caught:
        batches(6)
    return {"rows": tokenised, "batches": digest.hexdigest(), "error": str(caught.value)}


@pytest.mark.slow
def test_each_process_tokenises_a_part_of_many_rows(tmp_path):
    path, caches = tmp_path / "rows.jsonl", [str(tmp_path / name) for name in ("first", "second")]
    rows = [
        {"text": f"film number {i} " * (i % 4 + 1), "label": "ab"[i % 2]} for i in range(12_000)
    ]
    for i in (11_001, 11_003, 11_005):  # Of which one at least is not held out.
        rows[i]["more"] = "far too long to stay whole"
    path.write_text("\n".join(map(json.dumps, rows)))
    alone = batches_of_file(str(path), caches[0])
    # The first process has the tokens in its cache, and makes them again with the other.
    address = free_address()
    both = [process([__file__, str(path), caches[i], address, str(i)]) for i in range(2)]
    codes, outputs = ends(both)
    assert codes == [0, 0], outputs
    several = [json.loads(output.splitlines()[-1]) for output in outputs]
    assert sum(facts["rows"] for facts in several) == alone["rows"]
    assert several[0]["rows"] == alone["rows"] // 2
    for facts in several:
        assert facts["batches"] == alone["batches"]
        assert facts["error"] == f"process 1: {alone['error']}"


if __name__ == "__main__":
    join(
        DistributedConfig(
            coordinator_address=sys.argv[3], num_processes=2, process_id=int(sys.argv[4])
        )
    )
    # By the name that pytest has for this file, which is that of the encoder in the cache.
    from test_processes import batches_of_file

    print(json.dumps(batches_of_file(*sys.argv[1:3])))
