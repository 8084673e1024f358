"""A request: who asks for what, and the fair queue in which it waits."""

import dataclasses
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from prompt_jax.serve.errors import DeadlineError, QueueFullError
from prompt_jax.serve.prompts import Served
from prompt_jax.serve.sampling import Sampling

Tokens: TypeAlias = Int32[np.ndarray, " T"]


class Kind(NamedTuple):
    """Requests of one kind can be answered by one program."""

    operation: Literal["score", "classify", "tag", "span", "embed", "read", "write"]
    length: int = 0
    """T, to which texts are padded."""
    candidates: int = 0
    """C, to which the candidates of a request are padded; of `read`, K of the likeliest tokens; of
    `write`, R of the board."""
    tokens: int = 0
    """U, to which the tokens of a candidate are."""


WRITE = Kind("write")
"""Of all requests to write, and of the largest board; those of smaller ones have their sizes."""
HEADS: dict[str, Literal["classify", "tag", "span"]] = {
    "classification": "classify", "tagging": "tag", "span": "span",
}  # fmt: skip
"""Kind of answer of a prompt's head -> the operation by which it is read."""


class CandidateTokens(NamedTuple):
    """Answers that a request compares, padded to the tokens of its kind."""

    tokens: Int[np.ndarray, "C U"]
    real: Bool[np.ndarray, "C U"]
    normalize: bool
    """Whether a likelihood is divided by the number of tokens."""


@dataclasses.dataclass(eq=False)
class Caller:
    """Who asks."""

    key: str = ""
    """The name of its key; empty without keys."""


CALLER: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039 (says nobody)
"""Who asks in this context: a thread, or a task of an event loop."""


@dataclasses.dataclass(eq=False)
class Request:
    """One text under one prompt, and the future of its answer."""

    served: Served
    kind: Kind
    tokens: Tokens
    timeout: float | None = None
    """Seconds from `arrived` on; then it is late."""
    candidates: Sequence[CandidateTokens] = ()
    """What a request of kind `score` compares, in pieces; a batch reads one piece of it."""
    scores: list[Float[np.ndarray, " C"]] = dataclasses.field(default_factory=list)
    """Those of the pieces that are read."""
    sampling: Sampling = Sampling()
    """How a request of kind `write` is answered."""
    arrived: float = dataclasses.field(default_factory=time.monotonic)
    caller: Caller = dataclasses.field(default_factory=CALLER.get)
    future: "Future[Any]" = dataclasses.field(default_factory=Future)

    @property
    def piece(self) -> CandidateTokens:
        """The candidates that are read next."""
        return self.candidates[len(self.scores)]

    @property
    def turn(self) -> str:
        """Whose turn it waits for: that of its caller's key, or of its prompt without keys."""
        return self.caller.key or self.served.content

    def settle(self, answer: object = None, error: Exception | None = None) -> None:
        """Fulfils the future, unless its caller has cancelled it or has an answer already."""
        # Once a future runs it cannot be cancelled, so setting its result cannot race with that.
        if self.future.done() or not self.future.set_running_or_notify_cancel():
            return
        if error is None:
            self.future.set_result(answer)
        else:
            self.future.set_exception(error)

    def is_over(self) -> bool:
        """Whether nobody waits any more, since the caller cancelled it or it is late."""
        if self.future.cancelled():
            return True
        waited = time.monotonic() - self.arrived
        if self.timeout is None or waited < self.timeout:
            return False
        self.settle(
            error=DeadlineError(
                f"no answer within {waited:.3f} s; give it more time (timeout), or ask later"
            )
        )
        return True


Waits: TypeAlias = Callable[[Request], bool]
"""Whether a request cannot be answered yet."""


class Queue:
    """Requests that wait: those of one kind together, and every key in its turn.

    A key that asks a thousand times at once keeps out no other. The requests of one key are taken
    as they came, whatever their prompts: many prompts give it no more turns. Without keys prompts
    take turns.

    One lock of the engine's guards it.
    """

    def __init__(self, limit: int):
        self.limit, self.count = limit, 0
        self.waiting: OrderedDict[Kind, OrderedDict[str, deque[Request]]] = OrderedDict()
        """By kind and `Request.turn`, the next one first."""

    def put(self, requests: list[Request]) -> None:
        """Takes all of these or none.

        Raises:
          QueueFullError: there is no room for all, or more than half of it would be one key's.
        """
        if self.count + len(requests) > self.limit:
            raise QueueFullError(
                f"{self.count} requests wait and {self.limit} may; try again in a moment, or give "
                "the engine a longer queue"
            )
        for key, count in Counter(request.caller.key for request in requests).items():
            waiting = sum(len(turns.get(key, ())) for turns in self.waiting.values())
            # Without this a key that floods the server would leave no room for others.
            if key and waiting + count > self.limit // 2:
                raise QueueFullError(
                    f"{waiting} requests of this key wait and {self.limit // 2} may, half of the "
                    "queue; wait for some of the answers before you send more"
                )
        for request in requests:
            turns = self.waiting.setdefault(request.kind, OrderedDict())
            turns.setdefault(request.turn, deque()).append(request)
        self.count += len(requests)

    def put_back(self, requests: Sequence[Request]) -> None:
        """Takes requests of which only a piece was read; they are the next ones of their turns."""
        for request in reversed(requests):
            turns = self.waiting.setdefault(request.kind, OrderedDict())
            turns.setdefault(request.turn, deque()).appendleft(request)
        self.count += len(requests)

    def next_batch(
        self,
        most: Callable[[Kind], int],
        capacity: int,
        held: Collection[str],
        window: float,
        waits: Waits,
    ) -> tuple[list[Request], float]:
        """The next requests to read. Kinds take turns: many of one keep out no other.

        Args:
          most: requests of a kind that are read at once.

        Returns:
          None of them where it is better to wait for others, and for how many seconds.
        """
        soonest = 0.0
        # Requests to write are left out: the writer takes them as its places get free.
        for kind in [kind for kind in self.waiting if kind != WRITE]:
            turns, size = self.waiting[kind].values(), most(kind)
            left = min(requests[0].arrived for requests in turns) + window - time.monotonic()
            # A full batch gains nothing by waiting for others.
            if window and left > 0 and sum(map(len, turns)) < size:
                soonest = min(soonest or left, left)
                continue
            batch = self.take(kind, size, capacity, held, waits)
            if kind in self.waiting:
                self.waiting.move_to_end(kind)
            if batch:
                return batch, 0.0
        return [], soonest

    def take(
        self, kind: Kind, size: int, capacity: int, held: Collection[str], waits: Waits
    ) -> list[Request]:
        """Requests of a kind, one of each turn.

        Args:
          size: how many at most.
          capacity: different prompts that there is room for, those of `held` among them; requests
            of more prompts wait on.
          held: contents of prompts that are there already and stay.
          waits: whether a request has to wait on; asked about one of each prompt.
        """
        turns, room = self.waiting.get(kind, OrderedDict()), capacity - len(held)
        batch: list[Request] = []
        over: list[Request] = []
        new: set[str] = set()
        skipped: set[str] = set()

        def ready(requests: Iterable[Request]) -> Iterator[Request]:
            """Those of one turn that need not wait on."""
            for request in requests:
                content = request.served.content
                costs = bool(content) and content not in new and content not in held
                # First of all, so that those that wait for a program are told that they are late.
                if request.is_over():
                    over.append(request)
                elif content in skipped:
                    continue
                elif (costs and len(new) >= room) or waits(request):
                    skipped.add(content)
                else:
                    new.update([content] if costs else [])
                    yield request

        circle = deque((turn, ready(requests)) for turn, requests in turns.items())
        while circle and len(batch) < size:
            turn, requests = circle.popleft()
            request = next(requests, None)
            if request is not None:
                batch.append(request)
                circle.append((turn, requests))
                turns.move_to_end(turn)
        self._forget(kind, {*batch, *over})
        return batch

    def _forget(self, kind: Kind, requests: Collection[Request]) -> None:
        turns = self.waiting.get(kind, OrderedDict())
        for turn, queued in list(turns.items()) if requests else ():
            turns[turn] = deque(request for request in queued if request not in requests)
            # `next_batch` asks every kind for its oldest request, which an empty one does not have.
            if not turns[turn]:
                del turns[turn]
        if not turns:
            self.waiting.pop(kind, None)
        self.count -= len(requests)

    def drain(self) -> list[Request]:
        """All requests, which no longer wait."""
        requests = [
            request
            for turns in self.waiting.values()
            for queued in turns.values()
            for request in queued
        ]
        self.waiting.clear()
        self.count = 0
        return requests
