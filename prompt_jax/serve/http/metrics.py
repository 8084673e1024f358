"""Numbers for Prometheus, under vLLM's names where vLLM has such a number."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prompt_jax.config import InputError
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.requests import Request
from prompt_jax.serve.worker import Stats

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
LABELS = ("route", "prompt", "code")
"""Of every number about requests."""
NAMED = 1000
"""Prompts that have numbers of their own."""
NONE, SEVERAL, OTHER = "", "(several)", "(other)"
"""Labels of requests without a prompt, of more than one, and of prompts above `NAMED`."""


class Reading(NamedTuple):
    """A number of the engine, read when Prometheus asks."""

    about: str
    read: Callable[[Stats], float]
    counter: bool = False
    """Whether it only grows."""


ENGINE = {
    "num_requests_waiting": Reading("Rows that wait.", lambda stats: stats.waiting),
    "num_requests_running": Reading("Rows that are being written.", lambda stats: stats.writing),
    "prompts": Reading("Versions that can be asked for.", lambda stats: stats.prompts),
    "batch_under_way_seconds": Reading(
        "Of the batch on the device; grows without end where the device hangs.",
        lambda stats: stats.under_way,
    ),
    "xla_programs": Reading("Programs; flat once warm.", lambda stats: stats.shapes),
    "rows_read": Reading("Rows read.", lambda stats: stats.rows, True),
    "batches": Reading("Batches read.", lambda stats: stats.batches, True),
    "batches_mixed": Reading("Batches of several prompts.", lambda stats: stats.mixed, True),
    "batches_failed": Reading("Batches that went wrong.", lambda stats: stats.failed, True),
    "prompt_loads": Reading("Prompts put into slots.", lambda stats: stats.loaded, True),
}


class Metrics(Collector):
    """The numbers of one server."""

    def __init__(self, catalog: Catalog):
        # A registry of its own, since that of the library is one for the whole process.
        self.registry = CollectorRegistry()
        self._catalog, self._engine = catalog, catalog.engine
        self._lock = threading.Lock()
        self._labels: set[str] = set()
        """Names of prompts that have numbers."""
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        self.done = self._counter("request_success", "Requests that were answered.", *LABELS)
        self.failed = self._counter("request_failure", "Requests that had an error.", *LABELS)
        self.answers = self._counter("answers", "Answers; a request may ask for several.", "prompt")
        self.read = self._counter("prompt_tokens", "Tokens of texts.", "prompt")
        self.virtual = self._counter("virtual_tokens", "Virtual tokens beside them.", "prompt")
        self.written = self._counter("generation_tokens", "Tokens written.")
        self.took = self._histogram(
            "e2e_request_latency_seconds", "Of a request.", SECONDS, "route"
        )
        self.first = self._histogram("time_to_first_token_seconds", "Of a stream.", SECONDS)
        self.queued = self._histogram(
            "request_queue_time_seconds", "That a row waited for its batch.", SECONDS
        )
        self.rows = self._histogram("batch_rows", "Rows of a batch, by what it does.", ROWS, "kind")
        self._engine.on_batch = self._note_batch
        self.began = time.time()

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"prompt_jax:{name}", about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        name = f"prompt_jax:{name}"
        return Histogram(name, about, labels, buckets=buckets, registry=self.registry)

    def note(self, route: str, prompts: Sequence[str], code: int, seconds: float) -> None:
        """Counts a request, answered or not.

        Args:
          prompts: names of those that it asked.
        """
        prompt = SEVERAL if len(set(prompts)) > 1 else self._label(next(iter(prompts), NONE))
        counter = self.done if code < 400 else self.failed
        counter.labels(route, prompt, str(code)).inc()
        self.took.labels(route).observe(seconds)

    def count(
        self, model: str, answers: int, *, read: int = 0, virtual: int = 0, written: int = 0
    ) -> None:
        """Counts answers, and the tokens of their texts, of their prompt, and their own."""
        # What is composed, and an ensemble, has a name of its own for every client that asks.
        single = model == self._catalog.base or model in self._catalog
        label = self._label(model.partition("@")[0]) if single else SEVERAL
        self.answers.labels(label).inc(answers)
        self.read.labels(label).inc(read)
        self.virtual.labels(label).inc(virtual)
        self.written.inc(written)

    def _label(self, name: str) -> str:
        """What a prompt is counted under: its name, so that new versions are no new numbers."""
        with self._lock:
            if name not in self._labels and len(self._labels) >= NAMED:
                return OTHER
            self._labels.add(name)
            return name

    def _note_batch(self, requests: Sequence[Request]) -> None:
        """Counts a batch; called in the thread of the engine."""
        now = time.monotonic()
        self.rows.labels(requests[0].kind.operation).observe(len(requests))
        for request in requests:
            self.queued.observe(now - request.arrived)

    def collect(self) -> Iterator[Metric]:
        """The numbers of the engine and of the store; what Prometheus calls first."""
        self._forget()
        stats = self._engine.stats
        for name, reading in ENGINE.items():
            family = CounterMetricFamily if reading.counter else GaugeMetricFamily
            yield family(f"prompt_jax:{name}", reading.about, value=reading.read(stats))
        for name, about, count in (
            ("prompt_bank_slots", "Prompts on the device at once.", self._engine.slots),
            ("prompts_refused", "Versions that cannot be served.", len(self._catalog.problems)),
            ("prompts_poisoned", "Prompts whose answers were NaN.", len(self._engine.poisoned)),
            ("store_lost", "1 while the store cannot be read.", int(bool(self._catalog.lost))),
        ):
            yield GaugeMetricFamily(f"prompt_jax:{name}", about, value=count)
        memory = GaugeMetricFamily(
            "prompt_jax:device_memory_bytes", "In use, where devices tell.", labels=["device"]
        )
        for device in jax.local_devices():
            if used := device.memory_stats():  # None on CPU.
                memory.add_metric([str(device.id)], used["bytes_in_use"])
        yield memory

    def _forget(self) -> None:
        """Takes out the numbers of prompts that were removed, so that others have room."""
        with self._lock:
            names = {served.name for served in self._catalog.served}
            gone = self._labels - names - {self._catalog.base, NONE}
            self._labels -= gone
        for name in gone:
            for counter in (self.done, self.failed, self.answers, self.read, self.virtual):
                counter.remove_by_labels({"prompt": name})

    def text(self) -> bytes:
        """All numbers, as Prometheus reads them."""
        return generate_latest(self.registry)

    def listen(self, host: str, port: int) -> Callable[[], None]:
        """Serves the metrics on a port of their own, without a key; returns what ends it."""
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise InputError(
                f"the metrics cannot be served on {host}:{port}: {error.strerror}; give another "
                "--metrics-port"
            ) from error

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close
