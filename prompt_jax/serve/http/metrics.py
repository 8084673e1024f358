"""Numbers for Prometheus, under the names of vLLM's where there is such a thing."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prompt_jax.serve.engine import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
NAMED = 1000
"""Prompts that have numbers of their own; later ones are counted as `other`."""


class Metrics:
    """The numbers of one server."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.registry = CollectorRegistry()
        self._names: set[str] = set()
        common = {"registry": self.registry}

        def gauge(name: str, what: str, read: "object") -> None:
            made = Gauge(f"prompt_jax:{name}", what, **common)
            made.set_function(read)  # type: ignore[arg-type]

        gauge("num_requests_waiting", "Rows that wait.", lambda: engine.stats.waiting)
        gauge("num_requests_running", "Rows that are being written.", lambda: engine.stats.writing)
        gauge("prompts", "Versions that can be asked for.", lambda: engine.stats.prompts)
        gauge("prompt_bank_slots", "Prompts on the device at once.", lambda: engine.slots)
        gauge("rows_read", "Rows read since the start.", lambda: engine.stats.rows)
        gauge("batches", "Batches read since the start.", lambda: engine.stats.batches)
        gauge("batches_mixed", "Batches of more than one prompt.", lambda: engine.stats.mixed)
        gauge("prompt_loads", "Prompts put into slots.", lambda: engine.stats.loaded)
        gauge("xla_programs", "Programs; flat once warm.", lambda: engine.stats.shapes)
        self.done = Counter("prompt_jax:request_success", "Answers.", ("route", "prompt"), **common)
        self.failed = Counter("prompt_jax:request_failure", "Errors.", ("route", "code"), **common)
        self.read = Counter("prompt_jax:prompt_tokens", "Tokens of texts.", **common)
        self.written = Counter("prompt_jax:generation_tokens", "Tokens written.", **common)
        self.took = Histogram(
            "prompt_jax:e2e_request_latency_seconds", "Of a request.", ("route",),
            buckets=SECONDS, **common,
        )  # fmt: skip
        self.first = Histogram(
            "prompt_jax:time_to_first_token_seconds", "Of a request.", buckets=SECONDS, **common
        )
        self.began = time.time()

    def label(self, reference: str | None) -> str:
        """What a prompt is called here: names are the store's, and not too many."""
        name = reference or "base"
        if name not in self._names and len(self._names) >= NAMED:
            return "other"
        self._names.add(name)
        return name

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
