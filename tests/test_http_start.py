"""How a server begins and ends: alive at once, ready once warm, not ready before it leaves."""

import contextlib
import dataclasses
import signal
import socket
import threading

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from serving import ASKED, KEYS, USER, prompt_of, serving, until  # noqa: E402

from prompt_jax import cli  # noqa: E402
from prompt_jax.methods import PromptTuningConfig  # noqa: E402
from prompt_jax.serve.http import create_app  # noqa: E402
from prompt_jax.serve.http.run import server_of  # noqa: E402
from prompt_jax.tasks import Task  # noqa: E402

pytestmark = pytest.mark.timeout(180)


def test_a_port_that_is_taken_ends_before_anything_is_loaded(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        # There is no such model: whoever loads it first has another error.
        command = ["serve", "--backbone", str(tmp_path / "none"), "--store", str(tmp_path / "s")]
        assert cli.main([*command, "--port", port]) == 2
    printed = capsys.readouterr()
    assert f"cannot listen on 127.0.0.1:{port}: " in printed.err and "another --port" in printed.err
    assert "ready" not in printed.out


def test_alive_at_once_and_ready_once_warm(catalog, monkeypatch):
    worker, go, ready = catalog.engine._worker, threading.Event(), threading.Event()
    asked = []
    compile = worker.compile

    def held(lane):
        assert go.wait(60)
        asked.append(lane.kind.operation)
        # The rest would be compiled for nobody here.
        return compile(lane) if lane.kind.operation == "score" else 0

    monkeypatch.setattr(worker, "compile", held)
    monkeypatch.setattr(worker, "rehearse", lambda: asked.append("rehearsal"))
    with serving(create_app(catalog, KEYS, on_ready=ready.set)) as address:
        with httpx.Client(base_url=address, headers=USER, timeout=60) as user:
            assert user.get("/livez").status_code == 200
            head = user.head("/livez")
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == "2"
            assert user.get("/readyz").status_code == 503 and not ready.is_set()
            go.set()
            assert ready.wait(60) and user.get("/readyz").status_code == 200
            assert set(asked) == {"score", "embed", "write", "rehearsal"}
            count = len(asked)
            assert user.post("/v1/classify", json=ASKED).status_code == 200
            assert len(asked) == count
            # One that joins, of three labels, is compiled for before its name means it.
            labels = ("good", "bad", "fine")
            task = Task(name="t", source="{x}", target="{y}", labels=labels, kind="classification")
            prompt = prompt_of(catalog.engine.backbone, PromptTuningConfig(num_virtual_tokens=3), 2)
            catalog.put("tones", dataclasses.replace(prompt, task=task))
            assert asked[count:] == ["score"]
            answer = user.post("/v1/classify", json={"model": "tones", "input": "a fine film"})
            assert answer.status_code == 200 and len(asked) == count + 1


@contextlib.contextmanager
def leaving(catalog, drain):
    """A server that has been told to end, its address and its thread."""
    server = server_of(create_app(catalog, KEYS), "127.0.0.1", 0, timeout=30.0, drain=drain)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    host, port = server.servers[0].sockets[0].getsockname()
    server.handle_exit(signal.SIGTERM, None)
    try:
        yield server, f"http://{host}:{port}", thread
    finally:
        server.should_exit = True
        thread.join()


def test_a_server_that_leaves_is_not_ready_and_still_answers(catalog):
    with leaving(catalog, 60.0) as (server, address, thread):
        with httpx.Client(base_url=address, headers=USER, timeout=60) as user:
            assert user.get("/readyz").status_code == 503
            assert user.get("/livez").status_code == 200
            assert user.post("/v1/classify", json=ASKED).status_code == 200
            # Connections are given back, so that none is cut off with a request on its way.
            until(lambda: user.get("/livez").headers.get("connection") == "close")
        server.handle_exit(signal.SIGTERM, None)
        thread.join(60)
        assert not thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/livez")
    assert server.config.timeout_graceful_shutdown == 45


def test_a_server_leaves_after_its_time(catalog):
    with leaving(catalog, 0.01) as (_, _, thread):
        thread.join(60)
        assert not thread.is_alive()
