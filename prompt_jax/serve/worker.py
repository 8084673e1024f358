"""The thread of an engine: what waits is read in batches and written a few tokens at a time."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from prompt_jax.forward import PromptedModel
from prompt_jax.serve.bank import PLAIN_SLOT, Bank
from prompt_jax.serve.continuous import ContinuousBatch
from prompt_jax.serve.errors import EngineError
from prompt_jax.serve.programs import Lane, Programs
from prompt_jax.serve.requests import HEADS, WRITE, Kind, Queue, Request
from prompt_jax.serve.scoring import Scorer
from prompt_jax.serve.sizes import Sizes
from prompt_jax.serve.slots import Layout

LOG = logging.getLogger(__name__)
CLOSED = "the engine is closed; make a new one"
LOOK = 0.25
"""Seconds between two looks at requests that wait for a program: they may be late, or cancelled."""


class Stats(NamedTuple):
    """What an engine has done so far."""

    rows: int
    """Rows read."""
    batches: int
    """Programs that read them."""
    mixed: int
    """Batches of more than one prompt."""
    failed: int
    """Batches that went wrong; the log has why."""
    loaded: int
    """Prompts put into slots."""
    shapes: int
    """Programs that are compiled."""
    waiting: int
    writing: int
    """Rows whose answers are being written."""
    prompts: int
    under_way: float
    """Seconds that the device has been at its present batch; 0 between batches."""


class Worker:
    """The thread, and all that it alone touches; begins at once and ends with `close`.

    Args:
      model: without a prompt.
      layout: of a slot.
      programs: what is compiled; a later worker goes on with the same.
      poison: called with requests whose numbers are NaN or infinite.
      taken: called with the requests of a batch before it is read or written.
    """

    def __init__(
        self,
        model: PromptedModel,
        layout: Layout,
        sizes: Sizes,
        programs: Programs,
        poison: Callable[[Request], None],
        taken: Callable[[Sequence[Request]], None],
    ):
        self.programs, self._poison, self._taken = programs, poison, taken
        self.bank = Bank(layout, sizes.slots + 1)  # Slot 0 is the plain model's.
        self.scorer = Scorer(model, self.bank, programs, sizes.rows)
        self.writer: ContinuousBatch | None = None
        """None for a model that only reads."""
        if not model.module.config.is_encoder:
            self.writer = ContinuousBatch(
                model, self.bank, programs, self._ask, places=sizes.places, lengths=sizes.lengths,
                room=sizes.max_new_tokens, burst=sizes.burst,
            )  # fmt: skip
        self._queue, self._window = Queue(sizes.queue), sizes.window
        self._jobs: list[tuple[Future[None], Callable[[], None]]] = []
        self._broken: dict[Lane, BaseException] = {}
        """Lanes that did not compile, until the requests that wait for them get the error."""
        self.lock = threading.Condition()
        """While it is held nothing is taken from the queue."""
        self._closing, self._ended = False, ""
        self._batch_began, self._failed = 0.0, 0
        # A daemon: a program that forgot to close its engine still ends.
        self._thread = threading.Thread(target=self._serve, name="prompt_jax.engine", daemon=True)
        self._thread.start()

    def submit(self, requests: list[Request]) -> "list[Future[Any]]":
        """Takes all of these requests or none.

        Raises:
          QueueFullError: there is no room for all of them.
          EngineError: the thread has ended or will.
        """
        with self.lock:
            if self._ended or self._closing:
                raise EngineError(self._ended or CLOSED)
            self._queue.put(requests)
            for request in requests:  # Now, and not when its turn comes.
                self._waits(request)
            self.lock.notify()
        return [request.future for request in requests]

    def run(self, job: Callable[[], None]) -> None:
        """Does something in the thread, between two batches, and waits for it.

        Raises:
          EngineError: the thread has ended or will; or what the job raises.
        """
        future: Future[None] = Future()
        with self.lock:
            if self._ended or self._closing:
                raise EngineError(self._ended or CLOSED)
            self._jobs.append((future, job))
            self.lock.notify()
        future.result()

    def prepare(self, kinds: Iterable[Kind]) -> "list[Future[None]]":
        """Begins to compile what requests of these kinds need; the ends of that.

        Raises:
          EngineError: the thread has ended or will.
        """
        with self.lock:
            if self._ended or self._closing:
                raise EngineError(self._ended or CLOSED)
        return [
            self._ask(lane)
            for kind in kinds
            for part in self.bank.parts
            if kind.operation not in HEADS.values()
            or any(path.startswith("head/") for path in part)
            for lane in self._lanes(kind, part)
        ]

    def _lanes(self, kind: Kind, part: frozenset[str]) -> list[Lane]:
        """Whose programs answer requests of a kind; they wait for those of the first."""
        if kind.operation == WRITE.operation:
            return [Lane(kind, part)]
        return self.scorer.lanes(kind, part)

    def usual_kinds(self, lengths: Sequence[int]) -> list[Kind]:
        """What is asked of any engine: those of `Scorer`, and to write where the model does."""
        kinds = self.scorer.usual_kinds(lengths)
        return kinds if self.writer is None else [*kinds, WRITE]

    def rehearse(self) -> None:
        """Runs once what fills slots and what writes, for nobody."""
        self.run(self._rehearse)

    def _rehearse(self) -> None:
        self.bank.clear(PLAIN_SLOT)  # It is neutral already: this compiles what fills slots.
        # Nobody is awaited in a rehearsal, which would end answers that are under way.
        if self.writer is not None and not self.writer.requests:
            self.writer.rehearse()

    def compile(self, lane: Lane) -> int:
        """Compiles the programs of a lane, in any thread; how many."""
        if lane.kind.operation == WRITE.operation and self.writer is not None:
            return self.writer.compile(lane)
        return self.scorer.compile(lane)

    def _waits(self, request: Request) -> bool:
        """Whether the programs of a request are not there yet; they are compiled from now on."""
        lane = self._lane(request)
        if lane in self._broken:
            return True
        self._ask(lane, stays=lane.kind == WRITE)
        return not self.programs.has(lane)

    def _ask(self, lane: Lane, *, stays: bool = True) -> "Future[None]":
        """The end of a lane's compilation, which begins here unless it has before."""
        return self.programs.of(lane, self.compile, self._compiled, stays=stays)

    def _lane(self, request: Request) -> Lane:
        return self._lanes(request.kind, self.bank.part_of(request.served.leaves))[0]

    def _compiled(self, lane: Lane) -> None:
        """Wakes up the thread, for those who waited for a lane."""
        with self.lock:
            # Without a larger size smaller batches are read; nobody asks for it by name, so that it
            # would be tried with every batch.
            first = lane == self._lanes(lane.kind, lane.part)[0]
            error = self.programs.failure(lane, again=first)
            if error is not None:
                self._broken[lane] = error
            self.lock.notify()

    def _give_up(self) -> list[tuple[Request, EngineError]]:
        """Takes those who waited for a lane that does not compile, and why it does not."""
        broken, self._broken = self._broken, {}
        failed: list[tuple[Request, EngineError]] = []
        for lane, error in broken.items():
            others = lambda request, lane=lane: self._lane(request) != lane  # noqa: E731
            lost = self._queue.take(lane.kind, self._queue.count, sys.maxsize, (), others)
            reason = _failed("the batch does not compile", error)
            failed += [(request, reason) for request in lost]
        return failed

    def stats(self, prompts: int) -> Stats:
        """Counters since the thread began, of one moment."""
        began = self._batch_began  # Once: the thread may set it to 0 in between.
        with self.lock:
            return Stats(
                rows=self.scorer.requests,
                batches=self.scorer.batches,
                mixed=self.scorer.mixed,
                failed=self._failed,
                loaded=self.bank.loaded,
                shapes=self.programs.count,
                waiting=self._queue.count,
                writing=0 if self.writer is None else len(self.writer.requests),
                prompts=prompts,
                under_way=time.monotonic() - began if began else 0.0,
            )

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
        with self.lock:
            self._closing = True
            self.lock.notify()
        self._thread.join()

    def _serve(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # Callers wait for this thread: what ends it, ends them.
            self._end(f"the engine came to an end: {error!r}; make a new one")
            raise
        self._end(CLOSED)

    def _end(self, reason: str) -> None:
        with self.lock:
            self._ended = reason
            requests, jobs = self._queue.drain(), [job for job, _ in self._jobs]
        # This thread alone touches the writer, so no lock is needed.
        requests += self.writer.drain() if self.writer else []
        for future in [*(request.future for request in requests), *jobs]:
            if future.set_running_or_notify_cancel():
                future.set_exception(EngineError(reason))

    def _turn(self) -> bool:
        """Answers some of what waits; False once the engine is closed and nothing does."""
        queue, writer, bank = self._queue, self.writer, self.bank
        busy = writer is not None and bool(writer.requests)
        with self.lock:
            while not (queue.count or self._jobs or busy or self._closing):
                self.lock.wait()
            # Closing ends nothing that was taken: this thread goes on until all is answered.
            if self._closing and not (queue.count or busy):
                return False
            jobs, self._jobs = self._jobs, []
            failed = self._give_up()
            # Who writes does not wait for others to read with, nor does who leaves.
            window = 0.0 if busy or self._closing else self._window
            batch, left = queue.next_batch(
                self.scorer.most, bank.prompts, bank.held, window, self._waits
            )
            if batch and batch[0].kind in queue.waiting:
                self._grow(batch)
            begun: list[Request] = []
            if writer is not None and WRITE in queue.waiting:
                begun = writer.take(queue, self._waits)
            # `submit` notifies, and so does a program that is there, so this wait ends early.
            if not (batch or begun or jobs or busy or failed):
                self.lock.wait(left or LOOK)
        # Without the lock: a warm-up takes long, and callers must be able to submit meanwhile.
        for future, job in jobs:
            _fulfil(future, job)
        for request, error in failed:
            request.settle(error=error)
        # Reading comes first: it is one program, and who writes waits for dozens of tokens anyway.
        for requests in filter(None, ([r for r in batch if not r.scores], begun)):
            try:
                self._taken(requests)
            except Exception:  # Whoever counts batches ends none.
                LOG.exception("on_batch failed")
        if batch:
            self._guarded(batch, lambda: self.scorer.read(batch, self._poison))
            with self.lock:
                queue.put_back([request for request in batch if not request.future.done()])
        if writer is not None and begun:
            self._guarded(begun, lambda: writer.admit(begun, self._poison))
        if writer is not None and writer.requests:
            writing = list(writer.requests.values())
            self._guarded(writing, lambda: writer.advance(self._poison))
        return True

    def _grow(self, batch: Sequence[Request]) -> None:
        """Has a larger size of batches compiled where more wait than were taken."""
        part = self.bank.part_of(path for request in batch for path in request.served.leaves)
        lanes = self._lanes(batch[0].kind, part)
        larger = next((lane for lane in lanes if lane.rows > len(batch)), None)
        if larger is not None:
            self._ask(larger, stays=False)

    def _guarded(self, requests: Sequence[Request], work: Callable[[], None]) -> None:
        """Does some work; what goes wrong is the error of the requests that it was for."""
        self._batch_began = time.monotonic()
        try:
            work()
        except BaseException as error:
            # After SystemExit too: callers would wait for the futures forever.
            self._failed += 1
            failed = _failed("the batch failed", error)
            if self.writer is not None:
                requests = self.writer.forget(requests)
            for request in requests:
                request.settle(error=failed)
            if not isinstance(error, Exception):
                raise
        finally:
            self._batch_began = 0.0


def _failed(subject: str, error: BaseException | None) -> EngineError:
    LOG.error(subject, exc_info=error)
    failed = EngineError(f"{subject}: {error!r}")
    failed.__cause__ = error
    return failed


def _fulfil(future: "Future[None]", job: Callable[[], None]) -> None:
    try:
        job()
    except Exception as error:  # The caller of `run` raises it.
        future.set_exception(error)
    else:
        future.set_result(None)
