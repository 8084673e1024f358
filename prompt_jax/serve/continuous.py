"""Continuous batching: which request is written at which place of a board, and for whom."""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Bool

from prompt_jax.data import pad
from prompt_jax.forward import PromptedModel
from prompt_jax.serve.bank import PLAIN_SLOT, Bank, DeviceLeaves
from prompt_jax.serve.board import Board, Draws, Size, draws_of, empty, put, sizes_of
from prompt_jax.serve.decoding import read, write
from prompt_jax.serve.programs import Lane, Programs
from prompt_jax.serve.prompts import PLAIN
from prompt_jax.serve.read_prompts import ReadPrompts
from prompt_jax.serve.requests import WRITE, Kind, Queue, Request, Waits
from prompt_jax.serve.sampling import Likeliest, Written

Leaf = TypeVar("Leaf")
TOGETHER = 4
"""Inputs that are read at once, where more than half as many wait for a place."""


class ContinuousBatch:
    """The requests of a board, all from the thread of an engine.

    The board has the smallest size that holds them and whose programs are there; those of smaller
    sizes are compiled beside, once they are first of use.

    Args:
      model: without a prompt.
      programs: what is compiled.
      ask: begins to compile a lane.
      places: R, rows at once.
      lengths: T, to which inputs are padded, growing.
      room: U, tokens of an answer at most.
      burst: tokens between two looks at the board.
    """

    def __init__(
        self,
        model: PromptedModel,
        bank: Bank,
        programs: Programs,
        ask: Callable[[Lane], object],
        *,
        places: int,
        lengths: Sequence[int],
        room: int,
        burst: int,
    ):
        self._model, self._bank, self._programs, self._ask = model, bank, programs, ask
        self._sizes, self._burst = sizes_of(places, lengths, room), burst
        self._largest = self._sizes[-1]
        rows = max(size.rows for size in self._sizes if size.rows <= TOGETHER)
        self._counts = sorted({1, rows})
        """How many inputs are read at once."""
        self.requests: dict[int, Request] = {}
        """By place, those that are being written."""
        self._prompts = ReadPrompts(model, bank, places)
        self._sent: dict[Request, int] = {}
        """How many tokens their listeners have."""
        self._board: Board | None = None
        """None while nothing is written, so that an idle engine holds no cache."""
        self._size = self._largest
        self._hurry = False
        """Whether others wait for a reading, for which a burst is one token."""
        self._asked: set[Lane] = set()
        self._moves: set[tuple[Size, Size]] = set()
        """Between which sizes rows may be moved, or soon."""
        self._lock = threading.Lock()

    def take(self, queue: Queue, waits: Waits) -> list[Request]:
        """The next requests to write, as many as there are places.

        While answers are written, they wait for one reading and not for many.
        """
        free = self._largest.rows - len(self.requests)
        count = min(free, TOGETHER) if self.requests else free
        if not count:
            return []
        # One slot stays for what is read meanwhile.
        capacity = self._bank.prompts - 1
        batch = queue.take(WRITE, count, capacity, self._bank.held, waits)
        self._hurry = len(batch) == count < free and WRITE in queue.waiting
        return batch

    def admit(self, requests: Sequence[Request], poison: Callable[[Request], None]) -> None:
        """Reads the inputs of new requests, and writes and sends the first token of each."""
        size = self._size_for([*self.requests.values(), *requests])
        if self._board is None:
            self._size = size
        elif size != self._size:
            self._move(size)
        for batch in self._readings(requests):
            free = (place for place in range(self._size.rows) if place not in self.requests)
            places = list(itertools.islice(free, len(batch)))
            slots = []
            for place, request in zip(places, batch, strict=True):
                slots.append(self._bank.place(request.served))
                # The slot is kept until the answer ends: a step reads it again for every token.
                self._bank.hold(request.served)
                self.requests[place], self._sent[request] = request, 0
            # One program for any number above one; what fills up has a place beyond the board.
            filling = self._counts[-1] - len(batch) if len(batch) > 1 else 0
            rows, slots = [*batch, *[batch[0]] * filling], [*slots, *[slots[0]] * filling]
            size = self._size_for(rows, reading=True)._replace(rows=len(rows))
            leaves = self._bank.leaves_with(path for r in batch for path in r.served.leaves)
            behind = self._prompts.have(batch[0].served)
            board = self._read(rows, slots, size, leaves, behind=behind)
            self._seat(board, size, [*places, *[self._size.rows] * filling])
            self._tell(poison)

    def _readings(self, requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
        """Requests that are read at once: one, or more than half of what there is a program for."""
        most = self._counts[-1]
        # Apart, so that it depends on no neighbour how a row is read.
        for behind in (True, False):
            rows = [row for row in requests if self._prompts.have(row.served) == behind]
            while rows:
                count = most if len(rows) > most // 2 else 1
                yield rows[:count]
                rows = rows[count:]

    def _read(
        self,
        requests: Sequence[Request],
        slots: Sequence[int],
        size: Size,
        leaves: DeviceLeaves,
        *,
        behind: bool,
    ) -> Board:
        """Inputs behind their prompts, which were read before, or together with them."""
        rows = zip(requests, slots, strict=True) if behind else ()
        prompts = tuple(self._prompts.of(row.served, slot, leaves) for row, slot in rows)
        inputs = self._inputs(requests, slots, size.length)
        return read(self._model, leaves, prompts, *inputs, room=size.room)

    def _inputs(
        self, requests: Sequence[Request], slots: Sequence[int], length: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Draws]:
        """What `read` takes of requests."""
        config = self._model.module.config
        tokens, mask = pad([request.tokens for request in requests], length, config.filler)
        draws = draws_of([request.sampling for request in requests], config)
        return np.array(slots, np.int32), tokens, mask, draws

    def _seat(self, rows: Board, size: Size, places: Sequence[int]) -> None:
        """Puts what was read, a board of this size, on the board."""
        if self._board is None and size == self._size:
            self._board = rows  # Its places are those of the rows, in their order.
            return
        if self._board is None:
            self._board = self._empty(self._size)
        self._board = put(self._board, rows, np.array(places, np.int32))

    def _empty(self, size: Size) -> Board:
        return empty(self._model, self._bank.leaves_with(()), size=size)

    def _move(self, size: Size) -> None:
        """Puts all rows on a board of another size, from its first place on."""
        assert self._board is not None
        places = np.full(self._size.rows, size.rows, np.int32)
        places[list(self.requests)] = np.arange(len(self.requests))
        self._board = put(self._empty(size), self._board, places)
        self.requests, self._size = dict(enumerate(self.requests.values())), size

    def _size_for(self, requests: Sequence[Request], *, reading: bool = False) -> Size:
        """The smallest size that holds requests, of those whose programs are there.

        Args:
          reading: only sizes of as many rows, whose lanes have what reads so many inputs.
        """
        length = max(len(request.tokens) for request in requests)
        room = max(request.sampling.max_new_tokens for request in requests)
        needed = Size(len(requests), length, room)
        part = self._bank.part_of(path for r in requests for path in r.served.leaves)
        # Sizes grow, so the first one is the smallest.
        lanes = {
            size: Lane(self._kind(size), part)
            for size in self._sizes
            if size.holds(needed) and (size.rows == len(requests) or not reading)
        }
        best = next(iter(lanes.values()))
        if best not in self._asked:  # Once, or one that does not compile would be tried for ever.
            self._asked.add(best)
            self._ask(best)
        return next((size for size in lanes if self._programs.has(lanes[size])), self._largest)

    def _kind(self, size: Size) -> Kind:
        # The largest holds all requests, which wait for no other one.
        return WRITE if size == self._largest else Kind("write", size.length, size.rows)

    def advance(self, poison: Callable[[Request], None]) -> None:
        """Writes some tokens, sends them to who listens, and settles answers that have ended."""
        for place, request in list(self.requests.items()):
            if request.is_over():
                self._leave(place)
        if not self.requests:
            return
        size = self._size_for(list(self.requests.values()))
        if size != self._size:
            self._move(size)
        awaited = np.zeros(self._size.rows, bool)
        awaited[list(self.requests)] = True
        paths = (path for request in self.requests.values() for path in request.served.leaves)
        self._write(self._bank.leaves_with(paths), awaited)
        self._tell(poison)

    def _tell(self, poison: Callable[[Request], None]) -> None:
        """Sends what is new to who listens, and settles answers that have ended."""
        board = self._board
        assert board is not None
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
            start, self._sent[request] = self._sent[request], step
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
        assert self._board is not None
        tokens = np.int32(1 if self._hurry else self._burst)
        self._hurry = False
        self._board = write(self._model, _in_layers(leaves), self._board, awaited, tokens)

    def _leave(self, place: int) -> None:
        request = self.requests.pop(place)
        self._bank.release(request.served)
        del self._sent[request]
        if not self.requests:
            self._board = None

    def forget(self, requests: Sequence[Request]) -> list[Request]:
        """Drops requests after a failure, and all others whose board was given away to it."""
        board = self._board
        if board is not None and any(leaf.is_deleted() for leaf in jax.tree.leaves(board)):
            requests = [*requests, *self.drain()]
        for place, request in list(self.requests.items()):
            if request in requests:
                self._leave(place)
        return list(dict.fromkeys(requests))

    def drain(self) -> list[Request]:
        """All requests, which are no longer written."""
        requests = list(self.requests.values())
        for place in list(self.requests):
            self._leave(place)
        return requests

    def compile(self, lane: Lane) -> int:
        """Compiles what reads inputs and writes answers, in any thread; how many programs."""
        (size,) = (size for size in self._sizes if self._kind(size) == lane.kind)
        leaves, counts = self._bank.shapes(lane.part), self._counts
        if size != self._largest:  # Inputs of a smaller board are read as many at once as it has.
            counts = [count for count in counts if count == size.rows]
        ways = self._prompts.ways
        for count, behind in itertools.product(counts, ways):
            inputs = self._inputs([self._nobody] * count, [PLAIN_SLOT] * count, size.length)
            prompts = (self._prompts.shapes(leaves),) * count if behind else ()
            read.lower(self._model, leaves, prompts, *inputs, room=size.room).compile()
        board, awaited = self._shapes(size), np.zeros(size.rows, bool)
        write.lower(self._model, _in_layers(leaves), board, awaited, np.int32(1)).compile()
        empty.lower(self._model, self._bank.shapes(self._bank.parts[0]), size=size).compile()
        readings = [size._replace(rows=count) for count in counts]
        for source, target in self._new_moves(size, readings):
            places = np.zeros(source.rows, np.int32)
            put.lower(self._shapes(target), self._shapes(source), places).compile()
        return len(counts) * len(ways) + 1 + self._prompts.compile(leaves)

    def _new_moves(self, size: Size, readings: Sequence[Size]) -> set[tuple[Size, Size]]:
        """Which moves there are with a board of this size, and with what is read for it."""
        with self._lock:  # Lanes are compiled at the same time.
            boards = {target for _, target in self._moves} | {size}
            sources = {source for source, _ in self._moves} | {size, *readings}
            moves = {
                (source, target)
                for source in sources
                for target in boards
                # Rows are moved to another size, or put beside others once they are read.
                if source != target or source.rows in self._counts[1:]
            } - self._moves
            self._moves |= moves
        return moves

    def _shapes(self, size: Size) -> Board:
        leaves = self._bank.shapes(self._bank.parts[0])
        return jax.eval_shape(lambda *x: empty(*x, size=size), self._model, leaves)

    def rehearse(self) -> None:
        """Runs what was compiled once for nobody; nobody may be writing.

        On a mesh the first programs decide how the board is split, and others are compiled for it.
        """
        self._size = self._largest
        for part in self._bank.parts:
            leaves = self._bank.leaves_with(part)
            for count, behind in itertools.product((*self._counts, 1), self._prompts.ways):
                size, rows = self._size._replace(rows=count), [self._nobody] * count
                board = self._read(rows, [PLAIN_SLOT] * count, size, leaves, behind=behind)
                # At places beyond the board, so that it stays empty.
                self._seat(board, size, [self._size.rows] * count)
                # Nobody is awaited, so the loop ends before its first token.
                self._write(leaves, np.zeros(self._size.rows, bool))
        self._board = None

    @property
    def _nobody(self) -> Request:
        return Request(PLAIN, WRITE, np.full(1, self._model.module.config.filler, np.int32))


def _in_layers(leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """Those that every step reads. What stands before a text has become keys of the cache."""
    return {path: leaf for path, leaf in leaves.items() if path.startswith("sockets/")}
