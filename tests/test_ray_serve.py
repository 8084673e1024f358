"""Two replicas on a Ray of one machine, one of which is killed."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("ray.serve")
httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from serving import prompt_of, until  # noqa: E402

from prompt_jax.methods import PromptTuningConfig  # noqa: E402
from prompt_jax.serve import Store  # noqa: E402

SCRIPT = Path(__file__).parent.parent / "launch" / "serving" / "ray_serve.py"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("quick_commands")]


def test_the_name_of_a_request():
    spec = importlib.util.spec_from_file_location("ray_serve", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, body, name in (
        ("/v1/classify", {"model": "embedded:films@2"}, "films"),
        ("/v1/generate", {"prompts": [None]}, ""),
        ("/v1/classify", {"prompts": ["satire", "films"]}, "satire"),
        ("/v1/completions", {"compose": {"prompts": ["films@1", "satire"]}}, "films"),
        ("/v1/completions", {"compose": "films", "model": 3}, ""),
        ("/v1/prompts/films/aliases/stable", {"version": 2}, "films"),
        ("/v1/load_lora_adapter", {"lora_name": "films@stable", "lora_path": "films@2"}, "films"),
        ("/v1/classify", [["films"]], ""),
    ):
        assert module.prompt_name(path, json.dumps(body).encode()) == name, (path, body)
    assert module.prompt_name("/v1/classify", b"[" * 100_000) == ""


def servers_of(store):
    """Process -> port, of the servers of a store."""
    servers = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_text().split("\0")
            if folder.name.isdigit() and "serve" in words and f"--store={store}" in words:
                servers[int(folder.name)] = int(words[-2].removeprefix("--port="))
    return servers


def rows_of(port):
    """Rows that a server has read."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return float(lines["prompt_jax:rows_read_total"])


def test_a_prompt_has_its_replica_and_another_when_that_is_killed(tmp_path, tiny_folder):
    from prompt_jax.weights import load_backbone

    backbone, store = load_backbone(str(tiny_folder)), tmp_path / "store"
    method = PromptTuningConfig(num_virtual_tokens=2)
    names = [f"p{i}" for i in range(16)]
    for i, name in enumerate(names):
        Store(store).put(name, prompt_of(backbone, method, i))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [f"--backbone={tiny_folder}", f"--store={store}", "--rows=4", "--lengths=16"]
    flags += ["--max-new-tokens=2", "--num-virtual-tokens=2"]
    command = [sys.executable, str(SCRIPT), "--replicas=2", f"--port={port}", "--cpus=0.5", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert next(line for line in process.stdout if line.startswith("ready on"))
        address = f"http://127.0.0.1:{port}"
        body = {"input": "a fine film", "labels": ["good", "bad"]}

        def probabilities(name):
            reply = httpx.post(f"{address}/v1/classify", json={"model": name, **body}, timeout=60)
            assert reply.status_code == 200, reply.text
            return json.dumps(reply.json()["data"])

        servers = servers_of(store)
        assert len(servers) == 2

        def both_are_known():
            answers.update((name, probabilities(name)) for name in names)
            return all(map(rows_of, servers.values()))

        answers = {}
        until(both_are_known, 60)
        assert len(set(answers.values())) == len(names)
        before = {pid: rows_of(at) for pid, at in servers.items()}
        for count in (1, 2):
            assert len({probabilities("p0") for _ in range(3)}) == 1
            grown = [rows_of(at) - before[pid] for pid, at in servers.items()]
            assert sorted(grown) == [0, 3 * count]
        home = max(servers, key=lambda pid: grown[list(servers).index(pid)])
        with ThreadPoolExecutor(4) as clients:
            first = [clients.submit(probabilities, name) for name in names * 2]
            os.kill(home, signal.SIGKILL)
            rest = [clients.submit(probabilities, name) for name in names * 4]
            told = [future.result() for future in first + rest]
        assert told == [answers[name] for name in names * 6]
        absent = httpx.post(f"{address}/v1/classify", json={"model": "none", **body})
        assert absent.status_code == 404 and absent.headers["x-request-id"]
        until(lambda: len(servers_of(store)) == 2 and home not in servers_of(store), 120)
    finally:
        process.terminate()
        assert process.wait(60) == 0
    until(lambda: not servers_of(store))
