"""What who runs a server sees of it: its log, its numbers, its health."""

import contextlib
import dataclasses
import inspect
import json
import logging
import os
import re
import socket
import threading
import time

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

import jax  # noqa: E402
from serving import ADMIN, ASKED, KEYS, USER, prompt_of, serving, until  # noqa: E402

from prompt_jax import InputError  # noqa: E402
from prompt_jax.cli import serving as command  # noqa: E402
from prompt_jax.cli.calls import parse  # noqa: E402
from prompt_jax.methods import AdapterConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig  # noqa: E402
from prompt_jax.prompts import save_prompt
from prompt_jax.serve.http import connections, create_app, gate
from prompt_jax.serve.http import metrics as numbers
from prompt_jax.serve.http.logs import JSONLines, TextLines
from prompt_jax.serve.http.prompts import packed

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def lines():
    """What the log says meanwhile, as objects and as text."""

    class Lines(logging.Handler):
        def emit(self, record):
            objects.append(json.loads(JSONLines().format(record)))
            texts.append(TextLines().format(record))

    objects, texts = [], []
    handler, logger = Lines(), logging.getLogger("prompt_jax")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield objects, texts
    logger.removeHandler(handler)
    logger.setLevel(level)


def of(objects, logger):
    return [line for line in objects if line["logger"] == f"prompt_jax.{logger}"]


def test_a_line_a_request_and_a_line_a_change(catalog, lines, tmp_path, tiny_backbone):
    objects, texts = lines
    upload = packed(
        save_prompt(
            tmp_path / "p", prompt_of(tiny_backbone, PromptTuningConfig(num_virtual_tokens=2), 3)
        )
    )
    with serving(create_app(catalog, KEYS)) as address, httpx.Client(base_url=address) as client:
        asked = {"X-Request-ID": "of-mine.7", **USER}
        answer = client.post("/v1/classify", json=ASKED, headers=asked)
        assert answer.status_code == 200 and answer.headers["X-Request-ID"] == "of-mine.7"
        hostile = {"X-Request-ID": "a\tb", **USER}
        lost = client.post("/v1/classify", json={**ASKED, "model": "none"}, headers=hostile)
        request_id = lost.json()["error"]["request_id"]
        assert lost.status_code == 404 and re.fullmatch("[0-9a-f]{32}", request_id)
        assert lost.headers["X-Request-ID"] == request_id
        assert client.get("/livez").status_code == 200
        nobody = client.get("/v1/models", headers={"Authorization": "Bearer of nobody"})
        assert nobody.json()["error"]["request_id"] == nobody.headers["X-Request-ID"]
        client.put("/v1/prompts/films", content=upload, headers=ADMIN)
        client.put("/v1/prompts/films/aliases/stable", json={"version": 2}, headers=ADMIN)
        client.put("/v1/prompts/films/aliases/stable", json={"version": 3}, headers=ADMIN)
        client.delete("/v1/prompts/films/1", headers=ADMIN)
        client.post("/v1/unload_lora_adapter", json={"lora_name": "films@stable"}, headers=ADMIN)
    first, second, stranger, *_ = of(objects, "access")
    times = {name: first.pop(name) for name in ("time", "ms")}
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ", times["time"])
    assert 0 < times["ms"] < 60_000
    assert first == {
        "level": "info", "logger": "prompt_jax.access", "message": "request", "method": "POST",
        "route": "/v1/classify", "status": 200, "client": "127.0.0.1", "prompt": "films@2",
        "key": "user", "request_id": "of-mine.7",
    }  # fmt: skip
    assert (second["status"], second["request_id"], "prompt" in second) == (404, request_id, False)
    assert (stranger["status"], "key" in stranger) == (401, False)
    changes = of(objects, "audit")
    assert [(c["action"], c["model"], c["from"], c["to"]) for c in changes] == [
        ("put", "films", "films@2", "films@3"),
        ("alias", "films@stable", "", "films@2"),
        ("alias", "films@stable", "films@2", "films@3"),
        ("remove", "films@1", "films@1", ""),
        ("unalias", "films@stable", "films@3", ""),
    ]
    assert {change["key"] for change in changes} == {"admin"} and changes[0]["request_id"]
    every = "\n".join(texts)
    assert "a fine film" not in every and "Bearer" not in every and "of nobody" not in every
    assert " INFO prompt_jax.access: request method=POST route=/v1/classify status=200 ms=" in every


def test_what_a_client_writes_begins_no_line():
    record = logging.LogRecord("a", logging.INFO, "", 0, "no %s", ("x\nINFO forged",), None)
    record.fields = {"prompt": 'a b\n"'}
    (line,) = TextLines().format(record).splitlines()
    assert line.endswith(r'INFO a: no x\nINFO forged prompt="a b\n\""')


def test_a_batch_that_fails_is_the_operators_to_see(catalog, lines, monkeypatch):
    objects, _ = lines

    def fail(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED on /secret/device:0")

    with serving(create_app(catalog, KEYS)) as address:
        with httpx.Client(base_url=address, headers=ADMIN) as client:
            monkeypatch.setattr(catalog.engine._worker.scorer, "read", fail)
            answer = client.post("/v1/classify", json=ASKED)
            told = client.get("/metrics").text
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"
    assert "RESOURCE" not in answer.text and "device" not in answer.text
    (failed,) = of(objects, "serve.worker")
    assert failed["message"] == "the batch failed"
    assert "RuntimeError: RESOURCE_EXHAUSTED on /secret/device:0" in failed["traceback"]
    (answered,) = of(objects, "serve.http.errors")
    assert answered["request_id"] == answer.json()["error"]["request_id"]
    assert "prompt_jax:batches_failed_total 1.0" in told


def test_a_prompt_that_answers_with_nan_is_told(served, lines):
    (objects, _), catalog = lines, served.catalog
    lora = prompt_of(served.backbone, LoraConfig(r=2), 5)
    huge = dataclasses.replace(lora, tuned=jax.tree.map(lambda leaf: 1e30 * leaf, lora.tuned))
    catalog.store.put("huge", huge)
    catalog.refresh()
    with httpx.Client(base_url=served.address, headers=ADMIN, timeout=60) as client:
        assert client.get("/v1/prompts/huge").json()["poisoned"] is False
        for _ in range(2):
            answer = client.post("/v1/classify", json={**ASKED, "model": "huge"})
            assert answer.status_code == 409
            assert answer.json()["error"]["code"] == "prompt_poisoned"
        listed = client.get("/v1/prompts").json()["data"]
        assert [row["id"] for row in listed if row["poisoned"]] == ["huge@1"]
        assert "prompt_jax:prompts_poisoned 1.0" in client.get("/metrics").text
        catalog.store.remove("huge", 1)
        catalog.refresh()
        assert "prompt_jax:prompts_poisoned 0.0" in client.get("/metrics").text
    (line,) = of(objects, "serve.names")
    assert "refused from now on: the answers of prompt 'huge@1'" in line["message"]


def test_an_error_that_nobody_foresaw(catalog, lines, monkeypatch):
    objects, _ = lines
    app = create_app(catalog, KEYS)
    monkeypatch.setattr(app.state.responses, "model", lambda served: 1 // 0)
    with serving(app) as address, httpx.Client(base_url=address, headers=ADMIN) as client:
        answer = client.get("/v1/models")
        assert client.get("/v1/key").status_code == 200  # By the same connection.
        told = client.get("/metrics").text
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal"
    (line,) = of(objects, "serve.http.errors")
    assert "ZeroDivisionError" in line["traceback"]
    assert line["request_id"] == answer.headers["X-Request-ID"]
    assert 'request_failure_total{code="500",prompt="",route="/v1/models"} 1.0' in told


def test_a_device_that_hangs_is_seen(catalog, monkeypatch):
    hang, read = threading.Event(), catalog.engine._worker.scorer.read

    def hanging(*arguments):
        hang.wait(60)
        read(*arguments)

    catalog.engine.score("films@1", [5], [[7], [8]]).result()
    with serving(create_app(catalog, KEYS, timeout=0.3)) as address:
        with httpx.Client(base_url=address, headers=ADMIN) as client:
            assert client.get("/readyz").status_code == client.get("/livez").status_code == 200
            monkeypatch.setattr(catalog.engine._worker.scorer, "read", hanging)
            began = time.monotonic()
            late = client.post("/v1/classify", json=ASKED)
            assert late.status_code == 504 and late.json()["error"]["code"] == "deadline"
            assert time.monotonic() - began < 5
            ready = client.get("/readyz")
            assert ready.status_code == 503 and "at one batch for" in ready.text
            seconds = re.search(r"\n\S+batch_under_way_seconds (\S+)", client.get("/metrics").text)
            assert seconds and float(seconds[1]) > 0.3
            until(lambda: client.get("/livez").status_code == 503)
            hang.set()
            until(lambda: client.get("/readyz").status_code == 200)
            assert client.get("/livez").status_code == 200


def test_numbers_of_prompts_end_with_them(catalog, tiny_backbone, monkeypatch):
    monkeypatch.setattr(numbers, "NAMED", 2)
    counted = numbers.Metrics(catalog)
    for model in (
        "films@1",
        "films@2",
        "satire@2",
        "concat(films@2,satire@2)#1",
        "films@2+satire@2",
    ):
        counted.count(model, 3, read=10, virtual=4)
    counted.note("/v1/classify", ["films", "films"], 200, 0.1)
    counted.note("/v1/classify", ["films", "satire"], 404, 0.1)
    told = counted.text().decode()
    assert re.findall(r'answers_total\{prompt="(.*)"\} (\S+)', told) == [
        ("films", "6.0"), ("satire", "3.0"), ("(several)", "6.0"),
    ]  # fmt: skip
    for name, number in (("prompt", "20.0"), ("virtual", "8.0")):
        assert f'prompt_jax:{name}_tokens_total{{prompt="films"}} {number}' in told
    assert 'success_total{code="200",prompt="films",route="/v1/classify"} 1.0' in told
    assert 'failure_total{code="404",prompt="(several)",route="/v1/classify"} 1.0' in told
    for kind in ("rows_read_total", "batches_total", "prompt_loads_total"):
        assert f"# TYPE prompt_jax:{kind} counter" in told
    assert float(re.search(r"\nprocess_resident_memory_bytes (\S+)", told)[1]) > 2**20
    for name in ("poetry", "prose"):
        catalog.store.put(
            name, prompt_of(tiny_backbone, PromptTuningConfig(num_virtual_tokens=2), 4)
        )
    catalog.refresh()
    counted.count("poetry@1", 1)
    assert 'answers_total{prompt="(other)"} 1.0' in counted.text().decode()
    for version in (1, 2):  # The newest may go last alone.
        catalog.store.remove("films", version)
    catalog.refresh()
    assert 'prompt="films"' not in counted.text().decode()
    counted.count("prose@1", 1)
    assert 'answers_total{prompt="prose"} 1.0' in counted.text().decode()


def test_what_is_refused_and_how_long_rows_wait_is_counted(catalog, tiny_backbone):
    catalog.store.put("long", prompt_of(tiny_backbone, PromptTuningConfig(num_virtual_tokens=9), 4))
    assert len(catalog.refresh()) == 1
    counted = numbers.Metrics(catalog)
    catalog.engine.score("films@1", [5], [[7], [8]]).result()
    told = counted.text().decode()
    assert "prompt_jax:prompts_refused 1.0" in told
    assert 'prompt_jax:batch_rows_bucket{kind="score",le="1.0"} 1.0' in told
    assert "prompt_jax:request_queue_time_seconds_count 1.0" in told


def test_numbers_on_a_port_of_their_own(catalog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    counted = numbers.Metrics(catalog)
    close = counted.listen("127.0.0.1", port)
    try:
        told = httpx.get(f"http://127.0.0.1:{port}/metrics")
        assert told.status_code == 200 and "prompt_jax:prompts 4.0" in told.text
        with pytest.raises(InputError, match="give another --metrics-port"):
            counted.listen("127.0.0.1", port)
    finally:
        close()


def test_connections_that_say_nothing_are_closed(catalog, monkeypatch):
    monkeypatch.setattr(connections, "HEAD", 0.3)
    with serving(create_app(catalog, KEYS)) as address:
        host, port = address.removeprefix("http://").split(":")
        with contextlib.ExitStack() as stack:

            def connect(said):
                peer = stack.enter_context(socket.create_connection((host, int(port)), 10))
                peer.sendall(said)
                return peer

            asking = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
            half, silent = connect(b"GET /livez HTTP/1.1\r\nHost: a\r\nX-"), connect(b"")
            again, kept = connect(asking + b"GET /li"), connect(asking)
            assert half.recv(10) == silent.recv(10) == b""
            assert again.recv(1000).startswith(b"HTTP/1.1 200")
            while again.recv(1000):
                pass
            kept.recv(1000)
            kept.sendall(asking)  # Between two requests it may be silent for longer.
            assert kept.recv(1000).startswith(b"HTTP/1.1 200")
            both = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
            split = connect(both + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + asking)
            refused = [split, connect(b"no HTTP at all\r\n\r\n")]
            # Nobody can tell which host it is for; too long at once, or in parts.
            named = b"Host: localhost\r\n"
            refused += [connect(asking.replace(named, hosts)) for hosts in (b"", 2 * named)]
            long = b"GET /livez?%s HTTP/1.1\r\n" % (b"a" * connections.HEAD_BYTES)
            refused += [connect(long + named + b"\r\n"), connect(b"GET /livez HTTP/1.1\r\nX-A: b")]
            with contextlib.suppress(OSError):  # Refused before all of it is sent.
                for _ in range(40):
                    refused[-1].sendall(b"a" * 2000)
                    time.sleep(0.001)
            for peer in refused:
                reply = b"".join(iter(lambda peer=peer: peer.recv(1000), b""))
                assert reply.startswith(b"HTTP/1.1 400") and b'"code": "invalid_http"' in reply
                assert b"200 OK" not in reply


def test_the_silent_give_way(catalog, monkeypatch):
    monkeypatch.setattr(connections, "CONNECTIONS", 4)
    monkeypatch.setattr(gate, "REQUESTS", 0)
    with serving(create_app(catalog, KEYS)) as address, contextlib.ExitStack() as stack:
        host, port = address.removeprefix("http://").split(":")
        peers = [
            stack.enter_context(socket.create_connection((host, int(port)), 10)) for _ in range(4)
        ]
        assert httpx.get(f"{address}/livez").status_code == 200
        assert peers[0].recv(10) == b""
        busy = httpx.get(f"{address}/v1/models", headers=USER)
        assert busy.status_code == 503 and busy.headers["Retry-After"] == "1"
        assert busy.json()["error"]["code"] == "overloaded"


def test_an_upload_may_be_larger_than_a_question(catalog):
    with serving(create_app(catalog, KEYS, upload_bytes=2**21)) as address:
        with httpx.Client(base_url=address, headers=ADMIN) as client:
            body = b"x" * (2**20 + 1)
            assert client.put("/v1/prompts/films", content=body).status_code == 400
            assert client.post("/v1/classify", content=body).status_code == 413
            large = client.put("/v1/prompts/films", content=body + body)
            assert large.status_code == 413
            assert large.json()["error"]["message"] == "a body has at most 2097152 bytes here"


@pytest.fixture
def options(monkeypatch):
    """What `prompt-jax serve` is called with, after files, variables and flags."""
    received = {}

    def serve(**values):
        received.update(values)

    serve.__signature__ = inspect.signature(command._serve)
    monkeypatch.setattr(command, "_serve", serve)

    def options(*arguments):
        parse(command.run(list(arguments)))
        return received

    return options


def test_flags_come_before_variables_and_those_before_a_file(options, monkeypatch, tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(
        'port = 1\nlog_json = true\nrows = [1, 4]\nhosts = ["a,b", "c"]\nkeys = "-"\n'
        'slots = 8\nroom = ["lora", "r=16"]\n[frozen]\ndtype = "int8"\n'
    )
    monkeypatch.setenv("PROMPT_JAX_SERVE_CONFIG", str(path))
    monkeypatch.setenv("PROMPT_JAX_SERVE_LENGTHS", "8, 16")
    monkeypatch.setenv("PROMPT_JAX_SERVE_LOG_JSON", "false")
    monkeypatch.setenv("PROMPT_JAX_SERVE_PORT", "2")
    monkeypatch.setenv("PROMPT_JAX_SERVE_FROZEN_ATTENTION", "pallas")
    monkeypatch.setenv("PROMPT_JAX_PORT", "tcp://10.0.0.1:80")  # As Kubernetes sets.
    values = options("--port", "3", "--rows", "2")
    picked = {name: values[name] for name in ("port", "log_json", "rows", "hosts", "lengths")}
    assert picked == {
        "port": 3, "log_json": False, "rows": (2,), "hosts": ("a,b", "c"), "lengths": (8, 16),
    }  # fmt: skip
    assert (values["slots"], values["keys"], values["room"]) == (8, "-", ("lora", "r=16"))
    assert (values["frozen"].dtype, values["frozen"].attention) == ("int8", "pallas")
    assert options("--config", os.devnull)["port"] == 2
    monkeypatch.setenv("PROMPT_JAX_SERVE_LOG_JSON", "yes")
    with pytest.raises(InputError, match="log_json is true or false, got 'yes'"):
        options()


@pytest.mark.parametrize(
    "text, problem",
    [
        ("prot = 1", r"unknown option in .*serve.toml 'prot'; allowed: backbone, .*'port'\?"),
        ("[frozen]\ntype = 1", "unknown option in .* 'frozen.type'; .*'frozen.dtype'"),
        ("config = 'a'", "unknown option in .* 'config'"),
        ("port =", "--config is a TOML file, and .*serve.toml cannot be read: Invalid value"),
    ],
)
def test_a_file_of_options_with_a_mistake(tmp_path, text, problem):
    path = tmp_path / "serve.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=problem):
        command.run(["--config", str(path)])
    with pytest.raises(InputError, match="No such file"):
        command.run([f"--config={tmp_path}/none.toml"])


def test_room_by_a_flag():
    words = ["prefix_tuning", "num_virtual_tokens=20", "adapter", "style=houlsby", "lora", "r=16"]
    assert command.methods_of(words) == [
        PrefixTuningConfig(num_virtual_tokens=20), AdapterConfig(style="houlsby"), LoraConfig(r=16),
    ]  # fmt: skip
    with pytest.raises(InputError, match="--room begins with a method such as"):
        command.methods_of(["r=16"])
