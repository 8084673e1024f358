"""Traces for OpenTelemetry: a span of every request, and in it one of each of its rows.

Exporter, address, sampling and the rest are set by OpenTelemetry's own variables (`OTEL_...`).
Without them there are no traces, and nothing of OpenTelemetry is imported.
"""

import functools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import Scope

from prompt_jax import __version__
from prompt_jax.config import InputError
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.http.logs import Field, Trace
from prompt_jax.serve.requests import Request
from prompt_jax.serve.sampling import Written

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span
else:  # Only the extra `otel` has them.
    Span = SpanExporter = TracerProvider = object

LOG = logging.getLogger(__name__)
EXPORTER, PROTOCOL = "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL"
ASKING = (EXPORTER, "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables any of which asks for traces."""
ATTRIBUTES = {
    "method": "http.request.method", "route": "http.route", "client": "client.address",
    "status": "http.response.status_code", "prompt": "prompt_jax.prompt",
}  # fmt: skip
"""What a line of the log has -> what a span calls it."""


def open_traces() -> "Traces | None":
    """Traces as the variables of the environment ask for them; None where none does.

    Raises:
      InputError: there is no such exporter.
    """
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or not any(os.environ.get(name) for name in ASKING):
        return None
    names = [name.strip() for name in (os.environ.get(EXPORTER) or "otlp").split(",")]
    if "none" in names:
        return None
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        # No error: a cluster may set such variables in all that it runs.
        LOG.warning('OTEL_ variables ask for traces; pip install "prompt-jax[otel]" writes them')
        return None
    usual = {"service.name": "prompt_jax", "service.version": __version__}
    resource = Resource.create({**usual, **OTELResourceDetector().detect().attributes})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in names:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    return Traces(provider)


def _exporter(name: str) -> SpanExporter:
    """The exporter of a name, of those that installed packages bring."""
    exporters = {entry.name: entry for entry in entry_points(group="opentelemetry_traces_exporter")}
    wire = "grpc" if os.environ.get(PROTOCOL) == "grpc" else "http"
    name = f"otlp_proto_{wire}" if name == "otlp" else name
    if name not in exporters:
        raise InputError(
            f"{EXPORTER} is none, otlp, {', '.join(sorted(exporters))}, got {name}; install the "
            "package that brings it, or choose one of these"
        )
    return exporters[name].load()()


class Traces:
    """The spans of one server."""

    def __init__(self, provider: TracerProvider):
        self._provider, self._tracer = provider, provider.get_tracer("prompt_jax")

    def begin(self, scope: Scope, headers: Headers) -> Span:
        """The span of a request, in the trace that its `traceparent` names."""
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        return self._tracer.start_span(
            scope["method"], context=extract(headers), kind=SpanKind.SERVER
        )

    @staticmethod
    def end(request: Trace, fields: Mapping[str, Field]) -> None:
        """Ends the span of a request.

        Args:
          fields: of its line in the log.
        """
        from opentelemetry.trace import StatusCode

        span = request.span
        if span is None:
            return
        span.update_name(f"{fields['method']} {fields['route']}")
        span.set_attributes({ATTRIBUTES[n]: v for n, v in fields.items() if n in ATTRIBUTES})
        span.set_attributes({"prompt_jax.request_id": request.id, "prompt_jax.key": request.key})
        if int(fields["status"]) >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    def watch(self, engine: Engine) -> None:
        """Adds a span of each row that a request has in the engine, from its arrival on."""
        others = engine.on_batch

        def begun(requests: Sequence[Request]) -> None:
            others(requests)
            for request in requests:
                self._row(request, len(requests))

        engine.on_batch = begun

    def _row(self, request: Request, rows: int) -> None:
        from opentelemetry.trace import set_span_in_context

        caller = request.caller
        if not isinstance(caller, Trace) or caller.span is None:
            return
        queued = time.monotonic() - request.arrived
        span = self._tracer.start_span(
            f"engine {request.kind.operation}",
            context=set_span_in_context(caller.span),
            start_time=time.time_ns() - int(1e9 * queued),
            attributes={
                "gen_ai.latency.time_in_queue": queued,  # As vLLM calls it.
                "gen_ai.usage.input_tokens": len(request.tokens),
                "prompt_jax.batch_rows": rows,
                "prompt_jax.prompt": request.served.reference,
            },
        )
        request.future.add_done_callback(functools.partial(_end_row, span))

    def close(self) -> None:
        """Sends what is not sent yet, and ends."""
        self._provider.shutdown()


def _end_row(span: Span, future: "Future[Any]") -> None:
    from opentelemetry.trace import StatusCode

    if not future.cancelled():
        if error := future.exception():
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
        elif isinstance(answer := future.result(), Written):
            span.set_attribute("gen_ai.usage.output_tokens", len(answer.tokens))
    span.end()
