"""Traces for OpenTelemetry: a request and its rows in the engine, and where they are sent."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("opentelemetry.sdk")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402
from serving import ASKED, KEYS, USER, serving, until  # noqa: E402
from starlette.datastructures import Headers  # noqa: E402

from prompt_jax import InputError  # noqa: E402
from prompt_jax.serve.http import create_app  # noqa: E402
from prompt_jax.serve.http.traces import Traces, open_traces  # noqa: E402

pytestmark = pytest.mark.timeout(120)
TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_a_request_and_its_rows(served, monkeypatch):
    engine = served.catalog.engine
    monkeypatch.setattr(
        engine, "on_batch", engine.on_batch
    )  # The server of all tests keeps its own.
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(served.catalog, KEYS, traces=Traces(provider))

    def spans(count):
        until(lambda: len(exporter.get_finished_spans()) == count)
        finished = exporter.get_finished_spans()
        exporter.clear()
        return finished

    with serving(app) as address, httpx.Client(base_url=address, headers=USER, timeout=60) as user:
        caller = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-ID": "mine"}
        texts = {**ASKED, "model": "films@2", "input": ["a fine film", "a film"]}
        assert user.post("/v1/classify", json=texts, headers=caller).status_code == 200
        *rows, request = spans(3)
        assert request.name == "POST /v1/classify" and request.kind is SpanKind.SERVER
        assert format(request.parent.span_id, "x") == "b7ad6b7169203331"
        assert dict(request.attributes) == {
            "http.request.method": "POST", "http.route": "/v1/classify",
            "http.response.status_code": 200, "client.address": "127.0.0.1",
            "prompt_jax.prompt": "films@2", "prompt_jax.key": "user",
            "prompt_jax.request_id": "mine",
        }  # fmt: skip
        lengths = served.backbone.tokenizer(texts["input"])["input_ids"]
        assert {row.attributes["gen_ai.usage.input_tokens"] for row in rows} == set(
            map(len, lengths)
        )
        for row in rows:
            assert row.name == "engine score"
            assert row.parent.span_id == request.context.span_id
            assert format(row.context.trace_id, "x") == TRACE[1:]
            assert row.attributes["prompt_jax.prompt"] == "films@2"
            assert row.attributes["prompt_jax.batch_rows"] == 2
            waited = row.attributes["gen_ai.latency.time_in_queue"]
            assert 0 < waited < 1e-9 * (row.end_time - row.start_time) < 60
            assert request.start_time < row.start_time + 1_000_000

        written = {"model": "satire@1", "prompt": "a", "max_tokens": 3}
        answer = user.post("/v1/completions", json=written).json()
        row, request = spans(2)
        assert row.name == "engine write" and request.parent is None
        count = answer["usage"]["completion_tokens"]
        assert row.attributes["gen_ai.usage.output_tokens"] == count > 0

        monkeypatch.setattr(engine._worker.scorer, "read", lambda *_: 1 // 0)
        assert user.post("/v1/classify", json=ASKED).status_code == 503
        row, request = spans(2)
        assert row.status.status_code is request.status.status_code is StatusCode.ERROR
        assert row.attributes["error.type"] == "EngineError"
        assert user.get("/livez").status_code == 200
        assert user.get("/v1/models/none").status_code == 404
        (request,) = spans(1)
        assert request.name == "GET /v1/models/{model:path}"
        assert request.status.status_code is StatusCode.UNSET


def test_nothing_is_sent_unless_it_is_asked_for(monkeypatch):
    assert open_traces() is None
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert open_traces() is None
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(InputError, match="is none, otlp, .*otlp_proto_http, got zipkin; install"):
        open_traces()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert open_traces() is None


def test_the_collector_of_the_environment_gets_them(monkeypatch):
    bodies = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.handle_request, daemon=True)
        thread.start()
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}"
        )
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        traces = open_traces()
        traces.begin({"method": "GET"}, Headers()).end()
        traces.close()
        thread.join(30)
    ((path, body),) = bodies
    (sent,) = ExportTraceServiceRequest.FromString(body).resource_spans
    resource = {pair.key: pair.value.string_value for pair in sent.resource.attributes}
    assert path == "/v1/traces" and sent.scope_spans[0].spans[0].name == "GET"
    assert (resource["service.name"], resource["deployment.environment"]) == ("prompt_jax", "test")
