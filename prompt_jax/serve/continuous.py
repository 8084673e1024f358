"""Continuous batching: which request is written at which place of a board, and for whom."""

import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Bool

from prompt_jax.data import pad
from prompt_jax.forward import PromptedModel
from prompt_jax.serve.bank import PLAIN_SLOT, Bank, DeviceLeaves
from prompt_jax.serve.decoding import Board, Draws, admit, draws_of, empty_board, write
from prompt_jax.serve.programs import Lane
from prompt_jax.serve.prompts import PLAIN
from prompt_jax.serve.requests import WRITE, Queue, Request, Waits
from prompt_jax.serve.sampling import Likeliest, Written

TOGETHER = 4
"""Inputs that are read at once, where more than one waits for a place."""


class ContinuousBatch:
    """The requests of a board, all from the thread of an engine.

    Args:
      model: without a prompt.
      places: R, rows at once.
      length: T, to which inputs are padded.
      room: U, tokens of an answer at most.
      burst: tokens between two looks at the board.
    """

    def __init__(
        self,
        model: PromptedModel,
        bank: Bank,
        *,
        places: int,
        length: int,
        room: int,
        burst: int,
    ):
        self._model, self._bank = model, bank
        self._places, self._length, self._room, self._burst = places, length, room, burst
        self.requests: dict[int, Request] = {}
        """By place, those that are being written."""
        self._sent: dict[int, int] = {}
        """By place, how many tokens their listeners have."""
        self._board = self._empty()
        # Noted here, since another thread reads them while programs give the arrays away.
        self._shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._board
        )

    def _empty(self) -> Board:
        return empty_board(self._model, self._bank.leaves, self._places, self._length, self._room)

    def take(self, queue: Queue, waits: Waits) -> list[Request]:
        """The next requests to write, as many as there are places."""
        free = self._places - len(self.requests)
        # One slot stays for what is read meanwhile.
        capacity = self._bank.prompts - 1
        return queue.take(WRITE, free, capacity, self._bank.held, waits) if free else []

    def admit(self, requests: Sequence[Request]) -> None:
        """Reads the inputs of new requests and writes the first token of each."""
        free = iter([place for place in range(self._places) if place not in self.requests])
        for start in range(0, len(requests), TOGETHER):
            batch = requests[start : start + TOGETHER]
            places = list(itertools.islice(free, len(batch)))
            slots = []
            for place, request in zip(places, batch, strict=True):
                slots.append(self._bank.place(request.served))
                # The slot is kept until the answer ends: a step reads it again for every token.
                self._bank.hold(request.served)
                self.requests[place], self._sent[place] = request, 0
            # One program for any number above one: a place beyond the board takes what fills up.
            filling = TOGETHER - len(batch) if len(batch) > 1 else 0
            self._read(
                [*batch, *[batch[0]] * filling],
                [*places, *[self._places] * filling],
                [*slots, *[slots[0]] * filling],
                self._bank.leaves_with(path for r in batch for path in r.served.leaves),
            )

    def _read(
        self,
        rows: Sequence[Request],
        places: list[int],
        slots: list[int],
        leaves: DeviceLeaves,
    ) -> None:
        inputs = self._inputs(rows, places, slots)
        self._board = admit(self._model, leaves, self._board, *inputs, room=self._room)

    def _inputs(
        self, rows: Sequence[Request], places: list[int], slots: list[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Draws]:
        """What `admit` reads of rows."""
        config = self._model.module.config
        # Always to the longest length: the cache of the board has one shape for all rows.
        tokens, mask = pad([row.tokens for row in rows], self._length, config.filler)
        draws = draws_of([row.sampling for row in rows], config)
        return np.array(places, np.int32), np.array(slots, np.int32), tokens, mask, draws

    def advance(self, poison: Callable[[Request], None]) -> None:
        """Writes some tokens, sends them to who listens, and settles answers that have ended."""
        awaited = np.zeros(self._places, bool)
        for place, request in list(self.requests.items()):
            awaited[place] = not request.is_over()
            if not awaited[place]:
                self._leave(place)
        if not self.requests:
            return
        paths = (path for request in self.requests.values() for path in request.served.leaves)
        self._write(self._bank.leaves_with(paths), awaited)
        board = self._board
        tells = any(request.sampling.top_logprobs for request in self.requests.values())
        likeliest = board.likeliest if tells else None
        # One transfer for all: each would wait for the device anew.
        steps, live, tokens, log_probs, likeliest = jax.device_get(
            (board.step, board.live, board.tokens, board.log_probs, likeliest)
        )

        def written(request: Request, place: int, start: int, stop: int) -> Written:
            """What stands at a place between two steps, copied: a view keeps the whole board."""
            at = place, slice(start, stop)
            count = request.sampling.top_logprobs
            top = [np.zeros((stop - start, 0), kind) for kind in (np.int32, np.float32)]
            if likeliest is not None and count:
                top = [rows[at][:, :count].copy() for rows in likeliest]
            digest = request.served.digest
            return Written(tokens[at].copy(), log_probs[at].copy(), Likeliest(*top), digest)

        for place, request in list(self.requests.items()):
            step = int(steps[place])
            # A log-probability is normalised over all logits, so a NaN in any of them shows here.
            if not np.isfinite(log_probs[place, :step]).all():
                self._leave(place)
                poison(request)
                continue
            start, self._sent[place] = self._sent[place], step
            if start < step and request.sampling.stream is not None:
                try:
                    request.sampling.stream(written(request, place, start, step))
                except Exception as error:  # The caller's own code failed; others go on.
                    self._leave(place)
                    request.settle(error=error)
                    continue
            if not live[place]:
                self._leave(place)
                request.settle(written(request, place, 0, step))

    def _write(self, leaves: DeviceLeaves, awaited: Bool[np.ndarray, " R"]) -> None:
        self._board = write(self._model, leaves, self._board, awaited, tokens=self._burst)

    def _leave(self, place: int) -> None:
        self._bank.release(self.requests.pop(place).served)
        del self._sent[place]

    def forget(self, requests: Sequence[Request]) -> None:
        """Drops requests after a failure; a board that was donated to it is made anew."""
        for place, request in list(self.requests.items()):
            if request in requests:
                self._leave(place)
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(self._board)):
            self._board = self._empty()

    def drain(self) -> list[Request]:
        """All requests, which are written no more."""
        requests = list(self.requests.values())
        for place in list(self.requests):
            self._leave(place)
        return requests

    def compile(self, lane: Lane) -> int:
        """Compiles what reads inputs and writes answers, in any thread; how many programs."""
        leaves, request = self._bank.shapes(lane.part), self._nobody
        for count in (1, TOGETHER):
            inputs = self._inputs([request] * count, [0] * count, [PLAIN_SLOT] * count)
            admit.lower(self._model, leaves, self._shapes, *inputs, room=self._room).compile()
        awaited = np.zeros(self._places, bool)
        write.lower(self._model, leaves, self._shapes, awaited, tokens=self._burst).compile()
        return 3

    def rehearse(self) -> None:
        """Runs what was compiled once for nobody; nobody may be writing.

        On a mesh the first programs decide how the board is split, and others are compiled for it.
        """
        for part in self._bank.parts:
            leaves = self._bank.leaves_with(part)
            for count in (1, TOGETHER, 1):
                # At places beyond the board, so that it stays empty.
                places, slots = [self._places] * count, [PLAIN_SLOT] * count
                self._read([self._nobody] * count, places, slots, leaves)
                # Nobody is awaited, so the loop ends before its first token.
                self._write(leaves, np.zeros(self._places, bool))

    @property
    def _nobody(self) -> Request:
        return Request(PLAIN, WRITE, np.full(1, self._model.module.config.filler, np.int32))
