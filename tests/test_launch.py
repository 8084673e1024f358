"""What of launch/ can be checked where no cluster is."""

import os
import re
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from prompt_jax import cli

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
FILES = sorted(filter(Path.is_file, LAUNCH.iterdir()))
TEXTS = [*FILES, ROOT / "docs" / "launch.md"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_shell(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    subprocess.run([Path(sys.executable).with_name("shellcheck"), str(path)], check=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_tells_what_was_not_run(path):
    told = path.read_text(encoding="utf-8")
    if path.name != "train.sh":  # It is run below.
        assert re.search(r"^(# )?.*Not (run|applied|built): no ", told, re.MULTILINE)


def flags_of(text):
    """All flags of `prompt-jax train` that a text gives it, through train.sh or by itself."""
    lines = text.replace("\\\n", " ").replace('", "', " ").splitlines()
    words = [
        w
        for line in lines
        if "train.sh" in line or "prompt-jax train" in line
        for w in line.split()
    ]
    return {word.strip("\"'],") for word in words if word.startswith("--") and "." in word}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_flags_are_those_of_the_program(path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help-all"])
    known = capsys.readouterr().out
    assert all(flag in known for flag in flags_of(path.read_text(encoding="utf-8")))


def test_flags_are_found():
    assert flags_of((LAUNCH / "gke_jobset.yaml").read_text()) == {"--mesh.fsdp", "--mesh.tensor"}


def test_the_jobset_asks_for_what_its_slice_has():
    made = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert "kueue.x-k8s.io/queue-name" in made["metadata"]["labels"]
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert job["parallelism"] == job["completions"] == int(rows) * int(columns) / chips
    assert pod["terminationGracePeriodSeconds"] >= 60 and pod["restartPolicy"] == "Never"
    assert pod["securityContext"]["runAsNonRoot"]
    environment = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    assert (ROOT / environment["CONFIG"]).is_file()
    mount = pod["containers"][0]["volumeMounts"][0]["mountPath"]
    assert environment["OUT"].startswith(mount)


def test_skypilot_keeps_the_run_in_a_bucket():
    made = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert made["resources"]["use_spot"] is True
    assert (ROOT / made["envs"]["CONFIG"]).is_file()
    assert any(made["envs"]["OUT"].startswith(place) for place in made["file_mounts"])
    assert made["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert "exec sh launch/train.sh" in made["run"]


def test_the_image_is_pinned_and_not_root():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    given = [line.split(maxsplit=1) for line in lines if line and line[0].isupper()]
    base = next(value for name, value in given if name == "FROM")
    assert re.fullmatch(r"python:3\.11-slim AS base", base)
    stages = [value for name, value in given if name == "FROM"][1:]
    assert stages == ["base AS serve", "base"]  # The one without a name is built by default.
    assert [value for name, value in given if name == "USER"] == ["prompt"] * 2
    ignored = set((ROOT / ".dockerignore").read_text().split())
    assert {"tests", ".git", "runs"} <= ignored
    for name, value in given:
        if name == "COPY":
            assert all((ROOT / source).exists() for source in value.split()[:-1])
            assert not ignored & set(value.split()[:-1])


@pytest.fixture
def machine(tmp_path):
    """A PATH with programs that write down how they were called, and a run folder."""

    def program(name, body):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n{body}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    program("srun", 'exec "$@"')
    program("scontrol", "")
    program("prompt-jax", 'mkdir -p "$OUT"; touch "$OUT/config.json"; $FINISH')
    return program


def run(path, tmp_path, finish):
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CONFIG": "configs/sentiment.py",
        "OUT": str(tmp_path / "run"),
        "SLURM_JOB_ID": "42",
        "FINISH": finish,
    }
    command = ["bash" if path.suffix == ".sbatch" else "sh", str(path), "--mesh.fsdp", "auto"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    (tmp_path / "calls").unlink()
    return done.returncode, calls


def test_a_job_is_requeued_until_its_run_is_complete(machine, tmp_path):
    """Stopped, resumed and finished, failed: what Slurm would be told."""
    batch, out = LAUNCH / "slurm.sbatch", tmp_path / "run"
    train = f"prompt-jax train configs/sentiment.py --out {out}"
    code, calls = run(batch, tmp_path, "true")
    assert code == 0
    assert calls[0].startswith("srun sh launch/train.sh")
    assert calls[1:] == [f"{train} --mesh.fsdp auto", "scontrol requeue 42"]
    code, calls = run(batch, tmp_path, f"touch {out}/report.md")
    assert code == 0 and calls[1:] == [f"{train} --resume --mesh.fsdp auto"]
    (out / "report.md").unlink()
    code, calls = run(batch, tmp_path, "exit 2")
    assert code == 2 and "scontrol" not in shlex.join(calls)


def test_a_complete_run_is_left_alone(machine, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("config.json", "report.md"):
        (tmp_path / "run" / name).touch()
    (tmp_path / "calls").touch()
    assert run(LAUNCH / "train.sh", tmp_path, "true") == (0, [])
    (tmp_path / "run" / "report.md").unlink()
    code, _ = run(LAUNCH / "train.sh", tmp_path, "true")
    assert code == 75


def test_a_signal_to_the_shell_reaches_the_run(machine, tmp_path):
    """Slurm and Kubernetes tell the first process alone, and wait for it."""
    body = 'mkdir -p "$OUT"; touch "$OUT/config.json"; trap "echo told; exit 0" TERM'
    machine("prompt-jax", f"{body}\necho here\nsleep 60 & wait")
    environment = {"CONFIG": "x", "OUT": str(tmp_path / "run"), "PATH": os.environ["PATH"]}
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
    shell = subprocess.Popen(
        ["sh", str(LAUNCH / "train.sh")], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert shell.stdout.readline() == "here\n"
    shell.terminate()
    assert shell.stdout.readline() == "told\n"
    assert shell.wait(20) == 75
    shell.stdout.close()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_a_run_is_stopped_goes_on_and_is_complete(tmp_path, tiny_folder, task_file):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "prompt-jax"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m prompt_jax "$@"\n')
    program.chmod(0o755)
    config = tmp_path / "config.py"
    config.write_text(
        "from prompt_jax.config import *\n"
        f"config = Config(backbone={str(tiny_folder)!r},\n"
        f"  data=DataConfig(task='file:{task_file}'),\n"
        "  train=TrainConfig(steps=3000, checkpoint_every=20, eval_every=3000, batch_size=4))\n"
    )
    out = tmp_path / "run"
    environment = {**os.environ, "CONFIG": str(config), "OUT": str(out), "JAX_PLATFORMS": "cpu"}
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
    begin = {"env": environment, "cwd": ROOT, "stdout": subprocess.PIPE, "text": True}
    shell = subprocess.Popen(["sh", "launch/train.sh"], **begin)
    rows, end = out / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < end and not (rows.exists() and rows.read_text().count("\n") > 5):
        time.sleep(0.05)
    shell.terminate()
    said = shell.communicate(timeout=600)[0]
    assert shell.returncode == 75 and "stopped after step" in said, said
    done = subprocess.run(["sh", "launch/train.sh", "--train.steps", "3000"], **begin)
    assert done.returncode == 0 and (out / "report.md").is_file(), done.stdout
    again = subprocess.run(["sh", "launch/train.sh"], **begin)
    assert again.returncode == 0 and again.stdout == f"{out} is complete\n"


@pytest.mark.slow
def test_a_slice_is_made_anew_after_a_preemption(machine, tmp_path):
    """tpu_vm.sh with a gcloud that says what it is told to."""
    machine("gcloud", 'case "$*" in *describe*) echo "$STATE" ;; esac')
    place = {"PROJECT": "p", "ZONE": "z", "BUCKET": "b", "CONFIG": "configs/sentiment.py"}
    environment = {**os.environ, **place, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for state, wanted in [
        ("", ["describe", "create", "scp", "ssh", "ssh"]),
        ("READY", ["describe", "scp", "ssh", "ssh"]),
        ("PREEMPTED", ["describe", "delete", "create", "scp", "ssh", "ssh"]),
    ]:
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        command = ["bash", str(LAUNCH / "tpu_vm.sh")]
        subprocess.run(command, env={**environment, "STATE": state}, cwd=ROOT, check=True)
        lines = [line for line in calls.read_text().splitlines() if line.startswith("gcloud ")]
        assert [line.split()[4] for line in lines] == wanted
        assert all("--project=p --zone=z" in calls.read_text() for _ in lines)
    assert "exec sh launch/train.sh --mesh.fsdp auto" in calls.read_text()
