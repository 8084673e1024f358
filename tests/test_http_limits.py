"""What a server does when it is asked too much, too slowly, or for nothing any more."""

import contextlib
import json
import socket
import threading
import time

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from serving import ADMIN, ASKED, KEYS, USER, open_catalog, prompt_of, serving, until  # noqa: E402
from test_disk import full_disk  # noqa: E402

from prompt_jax.methods import PromptTuningConfig  # noqa: E402
from prompt_jax.prompts import save_prompt  # noqa: E402
from prompt_jax.serve import EngineError, Store
from prompt_jax.serve.http import Keys, create_app, writing
from prompt_jax.serve.http import app as app_module
from prompt_jax.serve.http.prompts import packed

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def catalog(tiny_backbone, tmp_path):
    """Of films@1 alone, and a queue for four."""
    with open_catalog(tiny_backbone, tmp_path / "store", ("films",), 1, queue=4) as opened:
        opened.engine.score("films@1", [5], [[7], [8]]).result()
        yield opened


@contextlib.contextmanager
def held(engine):
    """Nothing is taken from the queue meanwhile."""
    hold, inside = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=lambda: engine._worker.run(lambda: (inside.set(), hold.wait(60)))
    )
    thread.start()
    inside.wait()
    try:
        yield
    finally:
        hold.set()
        thread.join()


def test_a_flood(catalog):
    with serving(create_app(catalog, KEYS)) as address:
        with httpx.Client(base_url=address, headers=USER, timeout=60) as user, held(catalog.engine):
            flood = user.post("/v1/classify", json={**ASKED, "input": ["a"] * 5})
            assert flood.status_code == 429 and flood.headers["Retry-After"] == "1"
            assert flood.json()["error"]["type"] == "rate_limit_error"
        with httpx.Client(base_url=address, headers=USER, timeout=60) as user:
            assert user.post("/v1/classify", json=ASKED).status_code == 200
            numbers = user.get("/metrics", headers=ADMIN).text
        labels = 'prompt="films",route="/v1/classify"'
        assert f'prompt_jax:request_failure_total{{code="429",{labels}}} 1.0' in numbers
        assert f'prompt_jax:request_success_total{{code="200",{labels}}} 1.0' in numbers


def test_a_deadline(catalog):
    """The engine is held for longer than a request may wait, however fast the machine is."""
    with serving(create_app(catalog, KEYS, timeout=0.5)) as address:
        with httpx.Client(base_url=address, headers=USER, timeout=60) as user:
            answers = []
            with held(catalog.engine):
                ask = threading.Thread(
                    target=lambda: answers.append(user.post("/v1/classify", json=ASKED))
                )
                ask.start()
                until(lambda: catalog.engine.stats.waiting)
                time.sleep(0.6)
            ask.join()
            assert answers[0].status_code == 504
            assert answers[0].json()["error"]["code"] == "deadline"
            numbers = user.get("/metrics", headers=ADMIN).text
        labels = 'code="504",prompt="films",route="/v1/classify"'
        assert f"prompt_jax:request_failure_total{{{labels}}} 1.0" in numbers


def test_who_leaves_is_not_answered(catalog, monkeypatch):
    """An answer whose client has gone is written no further, streamed or not."""
    engine = catalog.engine
    writer = engine._worker.writer
    steps = []
    advance = writer.advance

    def slow(poison):
        steps.append(0)
        time.sleep(0.2)
        advance(poison)

    tokens = engine.backbone.tokenizer("a")["input_ids"]
    assert len(engine.generate("films@1", tokens, max_new_tokens=16).result().tokens) == 16
    monkeypatch.setattr(writer, "advance", slow)
    monkeypatch.setattr(writer, "_burst", 1)
    with serving(create_app(catalog, KEYS)) as address:
        host, port = address.removeprefix("http://").split(":")
        for stream in (False, True):
            body = json.dumps({"model": "films", "prompt": "a", "stream": stream}).encode()
            head = (
                f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer user\r\n"
            )
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            with socket.create_connection((host, int(port))) as plain:
                plain.sendall(head.encode() + body)
                until(lambda: engine.stats.writing)
                if stream:
                    assert plain.recv(12) == b"HTTP/1.1 200"
            begun = len(steps)
            until(lambda: not engine.stats.writing)
            assert len(steps) - begun < 8  # Of the 16 that it would have taken.


STREAMS = {
    "completions": {"model": "films@1", "prompt": "a"},
    "chat/completions": {"model": "films@1", "messages": [{"role": "user", "content": "a"}]},
    "generate": {"model": "films@1", "text": "a"},
    "responses": {"model": "films@1", "input": "a"},
}


def test_an_error_in_the_middle_of_a_stream(served, monkeypatch):
    """The last event says that the device hangs, or that the batch failed."""
    engine = served.catalog.engine
    writer, go = engine._worker.writer, threading.Event()
    advance, left = writer.advance, []
    # The server of all tests keeps what it watches batches with.
    monkeypatch.setattr(engine, "on_batch", engine.on_batch)

    def hanging():
        assert go.wait(60)

    def once(poison):
        if left:
            left.pop()()
        advance(poison)
        left.append(failure)

    engine.generate("films@1", [5], max_new_tokens=16).result()
    monkeypatch.setattr(writer, "advance", once)
    monkeypatch.setattr(writing, "LATE", 0.1)
    app = create_app(served.catalog, KEYS, timeout=0.5)
    with serving(app) as address, httpx.Client(base_url=address, headers=USER, timeout=60) as user:
        cases = [(route, lambda: 1 // 0, "unavailable") for route in STREAMS]
        cases += [(route, hanging, "deadline") for route in ("chat/completions", "responses")]
        for route, failure, code in cases:  # noqa: B007 (`once` uses it)
            left.clear()
            go.clear()
            answer = user.post(f"/v1/{route}", json={**STREAMS[route], "stream": True})
            go.set()
            until(lambda: not engine.stats.writing)
            assert answer.status_code == 200 and "DONE" not in answer.text
            events = [line for line in answer.text.splitlines() if line.startswith("data: ")]
            last = json.loads(events[-1].removeprefix("data: "))
            assert len(events) > 1 and "device" not in events[-1]
            if route == "responses":
                assert answer.text.splitlines()[-3] == "event: error"
                assert (last["type"], last["sequence_number"]) == ("error", len(events) - 1)
            else:
                last = last["error"]
            assert last["code"] == code and last["message"], (route, last)
        numbers = user.get("/metrics", headers=ADMIN).text
    for code in (503, 504):
        labels = f'code="{code}",prompt="films",route="/v1/responses"'
        assert f"prompt_jax:request_failure_total{{{labels}}} 1.0" in numbers


@pytest.mark.slow
def test_slow_senders_and_no_requests(catalog, monkeypatch):
    monkeypatch.setattr(app_module, "SLACK", 0.5)
    with serving(create_app(catalog, KEYS, timeout=3.0)) as address:
        host, port = address.removeprefix("http://").split(":")
        head = f"POST /v1/generate HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer user\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
        with socket.create_connection((host, int(port)), timeout=10) as large:
            large.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
            with contextlib.suppress(OSError):
                for _ in range(20):
                    large.sendall(chunk)
            assert large.recv(100).startswith(b"HTTP/1.1 413")
        with httpx.Client(base_url=address, headers=USER, timeout=60) as user:
            assert user.post("/v1/classify", json=ASKED).status_code == 200


def test_an_engine_that_ended_begins_again(catalog, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)

    def end(*_, **__):
        raise SystemExit

    with serving(create_app(catalog, Keys())) as address, httpx.Client(base_url=address) as user:
        assert user.get("/readyz").status_code == 200
        monkeypatch.setattr(catalog.engine._worker.scorer, "read", end)
        assert user.post("/v1/classify", json=ASKED).status_code == 503
        assert user.get("/readyz").status_code == 503
        assert user.get("/livez").status_code == 200
        until(lambda: user.get("/readyz").status_code == 200, 120)
        assert user.post("/v1/classify", json=ASKED).status_code == 200


def test_what_others_publish_is_found(catalog, tiny_backbone, monkeypatch):
    app = create_app(catalog, Keys(), refresh=0.05)
    marks = catalog.store.marks

    def ended(name):
        """As the engine while it begins again: the next look has to come all the same."""
        monkeypatch.setattr(catalog.store, "marks", marks)
        raise EngineError("the engine came to an end")

    monkeypatch.setattr(catalog.store, "marks", ended)
    with serving(app) as address, httpx.Client(base_url=address) as user:
        until(lambda: catalog.store.marks is marks)
        assert user.get("/v1/models/other").status_code == 404
        other = prompt_of(tiny_backbone, PromptTuningConfig(num_virtual_tokens=2), 5)
        Store(catalog.store.root).put("other", other)
        until(lambda: user.get("/v1/models/other").status_code == 200)
        Store(catalog.store.root).remove("other", 1)
        until(lambda: user.get("/v1/models/other").status_code == 404)


def test_a_store_that_is_full_or_cannot_be_written(catalog, tiny_backbone, tmp_path):
    prompt = prompt_of(tiny_backbone, PromptTuningConfig(num_virtual_tokens=2), 5)
    body = packed(save_prompt(tmp_path / "p", prompt))
    root = catalog.store.root
    with serving(create_app(catalog, Keys())) as address, httpx.Client(base_url=address) as admin:
        put, alias = "/v1/prompts/films", "/v1/prompts/films/aliases/stable"
        before = sorted(root.rglob("*"))
        with full_disk(size=16):  # Less than a file of a prompt, or the aliases.
            for answer in (
                admin.put(put, content=body),
                admin.put("/v1/prompts/other", content=body),
                admin.put(alias, json={"version": 1}),
            ):
                assert answer.status_code == 507, answer.text
                error = answer.json()["error"]
                assert error["code"] == "storage_full" and error["type"] == "server_error"
                assert error["message"] == "the server cannot write it: File too large"
        assert sorted(root.rglob("*")) == before
        (root / ".lock").unlink()
        (root / ".lock").mkdir()
        for answer in (
            admin.put(put, content=body),
            admin.put(alias, json={"version": 1}),
            admin.delete("/v1/prompts/films/1"),
            admin.post("/v1/unload_lora_adapter", json={"lora_name": "films"}),
        ):
            assert answer.status_code == 503, answer.text
            assert answer.json()["error"]["message"] == "the server cannot write it: Is a directory"
        (root / ".lock").rmdir()
        assert admin.put(put, content=body).json()["id"] == "films@2"
        refused = admin.delete("/v1/prompts/films/2")
        assert refused.status_code == 400 and "films@2 is what films means" in refused.text
        assert admin.get("/v1/models/films").json()["id"] == "films@2"


def test_a_store_that_is_lost_is_told_once(catalog, caplog):
    app = create_app(catalog, Keys(), refresh=0.05)
    with serving(app) as address, httpx.Client(base_url=address) as user:
        assert user.get("/readyz").text == "ok"
        hidden = catalog.store.root / "films"
        hidden.rename(catalog.store.root / ".films")
        until(
            lambda: (
                user.get("/readyz").text == "ok, but the store is empty; what it had is served on"
            )
        )
        assert user.post("/v1/classify", json=ASKED).status_code == 200
        assert user.delete("/v1/prompts/films/1").status_code == 503
        (catalog.store.root / ".films").rename(hidden)
        until(lambda: user.get("/readyz").text == "ok")
    # A refresh that looks while the folder is renamed may say that too.
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("prompts stay as they were: the store is empty") == 1


def test_the_page_may_run_itself_alone(catalog):
    with serving(create_app(catalog, KEYS)) as address:
        got = httpx.get(address)
        rules = got.headers["Content-Security-Policy"]
        assert got.status_code == 200 and "default-src 'none'" in rules
        assert rules.count("'sha256-") == 2 and "unsafe" not in rules
        assert "http://" not in got.text and "https://" not in got.text
