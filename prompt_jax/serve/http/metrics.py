"""Numbers for Prometheus, under vLLM's names where vLLM has such a number."""

import functools
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prompt_jax.serve.engine import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
NAMED = 1000
"""Prompts that have numbers of their own; later ones are counted as `other`."""
GAUGES: dict[str, tuple[str, Callable[[Engine], int]]] = {
    "num_requests_waiting": ("Rows that wait.", lambda engine: engine.stats.waiting),
    "num_requests_running": ("Rows that are being written.", lambda engine: engine.stats.writing),
    "prompts": ("Versions that can be asked for.", lambda engine: engine.stats.prompts),
    "prompt_bank_slots": ("Prompts on the device at once.", lambda engine: engine.slots),
    "rows_read": ("Rows read since the start.", lambda engine: engine.stats.rows),
    "batches": ("Batches read since the start.", lambda engine: engine.stats.batches),
    "batches_mixed": ("Batches of more than one prompt.", lambda engine: engine.stats.mixed),
    "prompt_loads": ("Prompts put into slots.", lambda engine: engine.stats.loaded),
    "xla_programs": ("Programs; flat once warm.", lambda engine: engine.stats.shapes),
}
"""Name -> its help, and where the number is read when Prometheus asks."""


class Metrics:
    """The numbers of one server."""

    def __init__(self, engine: Engine):
        # A registry of its own, since that of the library is one for the whole process.
        self.registry = CollectorRegistry()
        self._names: set[str] = set()
        for name, (about, read) in GAUGES.items():
            gauge = Gauge(f"prompt_jax:{name}", about, registry=self.registry)
            gauge.set_function(functools.partial(read, engine))
        self.done = self._counter("request_success", "Answers.", "route", "prompt")
        self.failed = self._counter("request_failure", "Errors.", "route", "code")
        self.read = self._counter("prompt_tokens", "Tokens of texts.")
        self.written = self._counter("generation_tokens", "Tokens written.")
        self.took = self._histogram("e2e_request_latency_seconds", "route")
        self.first = self._histogram("time_to_first_token_seconds")
        self.began = time.time()

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"prompt_jax:{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, *labels: str) -> Histogram:
        return Histogram(
            f"prompt_jax:{name}", "Of a request.", labels, buckets=SECONDS, registry=self.registry
        )

    def count(self, route: str, model: str, rows: int, *, read: int = 0, written: int = 0) -> None:
        """Counts answers, and the tokens of their texts and their own."""
        # Clients choose names of compositions: a label for every one would grow without end.
        label = model if model in self._names or len(self._names) < NAMED else "other"
        if label == model:
            self._names.add(model)
        self.done.labels(route, label).inc(rows)
        self.read.inc(read)
        self.written.inc(written)

    def text(self) -> bytes:
        """All numbers, as Prometheus reads them."""
        return generate_latest(self.registry)
