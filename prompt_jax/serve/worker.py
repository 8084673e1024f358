"""The thread of an engine: what waits is read in batches and written a few tokens at a time."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from prompt_jax.serve.errors import EngineError
from prompt_jax.serve.queue import Kind, Queue, Row
from prompt_jax.serve.reader import Reader
from prompt_jax.serve.slots import Version
from prompt_jax.serve.writer import Writer

CLOSED = "the engine is closed; make a new one"


class Worker:
    """Starts with its thread, and ends it with `close`.

    Args:
      reader, writer: whom rows go to; a model that only reads has no writer.
      queue: who waits.
      poison: called with rows whose numbers are none.
    """

    def __init__(
        self,
        reader: Reader,
        writer: Writer | None,
        queue: Queue,
        poison: Callable[[Row], None],
    ):
        self._reader, self._writer, self._queue = reader, writer, queue
        self._poison = poison
        self._jobs: list[tuple[Future[None], Callable[[], None]]] = []
        self._wake = threading.Condition()
        self._closing, self._ended = False, ""
        self._thread = threading.Thread(target=self._serve, name="prompt_jax.engine", daemon=True)
        self._thread.start()

    @property
    def lock(self) -> threading.Condition:
        """While it is held nothing is taken from the queue."""
        return self._wake

    def submit(
        self,
        versions: Sequence[Version],
        kind: Kind,
        tokens: np.ndarray,
        asked: Any,
        timeout: float | None,
    ) -> "list[Future[Any]]":
        """A row for each of these prompts, all of them taken or none.

        Args:
          timeout: seconds until a row is late.

        Raises:
          QueueFullError: there is no room for all of them.
          EngineError: the thread has ended or will.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        about = {"kind": kind, "tokens": tokens, "asked": asked, "deadline": deadline}
        rows = [Row(version=version, **about) for version in versions]
        with self._wake:
            self._check_open()
            self._queue.put(rows)
            self._wake.notify()
        return [row.future for row in rows]

    def run(self, job: Callable[[], None]) -> None:
        """Does something in the thread, between two batches, and waits for it.

        Raises:
          EngineError: the thread has ended or will; or what the job raises.
        """
        future: Future[None] = Future()
        with self._wake:
            self._check_open()
            self._jobs.append((future, job))
            self._wake.notify()
        future.result()

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and not (self._closing or self._ended)

    @property
    def failed(self) -> bool:
        """Whether the thread came to an end by itself."""
        return bool(self._ended) and not self._closing

    def close(self) -> None:
        """Answers what waits and is being written, takes no more, and ends the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _check_open(self) -> None:
        if self._ended or self._closing:
            raise EngineError(self._ended or CLOSED)

    def _serve(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # Callers wait for this thread: what ends it, ends them.
            self._end(f"the engine came to an end: {error!r}; make a new one")
            raise
        self._end(CLOSED)

    def _end(self, reason: str) -> None:
        with self._wake:
            self._ended = reason
            rows, jobs = self._queue.drain(), [job for job, _ in self._jobs]
        rows += self._writer.drain() if self._writer else []
        for future in [*(row.future for row in rows), *jobs]:
            if future.set_running_or_notify_cancel():
                future.set_exception(EngineError(reason))

    def _turn(self) -> bool:
        """Answers some of what waits; False once the engine is closed and nothing does."""
        writer = self._writer
        busy = writer is not None and writer.busy
        with self._wake:
            while not (self._queue or self._jobs or busy or self._closing):
                self._wake.wait()
            if self._closing and not (self._queue or busy):
                return False
            jobs, self._jobs = self._jobs, []
            batch, left = self._reader.next(self._queue, patient=not (busy or self._closing))
            begun = writer.take(self._queue) if writer is not None else []
            if left and not (jobs or begun):
                self._wake.wait(left)
        for future, job in jobs:
            _fulfil(future, job)
        if batch:
            self._guarded(batch, lambda: self._reader.read(batch, self._poison))
        if writer is not None and begun:
            self._guarded(begun, lambda: writer.admit(begun))
        if writer is not None and writer.busy:
            self._guarded(writer.rows, lambda: writer.go_on(self._poison))
        return True

    def _guarded(self, rows: list[Row], work: Callable[[], None]) -> None:
        """Does it; what goes wrong is told those whose rows these are."""
        try:
            work()
        except BaseException as error:
            failed = EngineError(f"the batch failed: {error!r}")
            failed.__cause__ = error
            if self._writer is not None:
                self._writer.forget(rows)
            for row in rows:
                row.settle(error=failed)
            if not isinstance(error, Exception):
                raise


def _fulfil(future: "Future[None]", job: Callable[[], None]) -> None:
    try:
        job()
    except Exception as error:  # It is the caller's.
        future.set_exception(error)
    else:
        future.set_result(None)
