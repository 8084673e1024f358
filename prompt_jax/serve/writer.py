"""Who writes at which place of a board, and for whom."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from prompt_jax.config import InputError, at_least
from prompt_jax.data import pad
from prompt_jax.serve.errors import TooLongError
from prompt_jax.serve.queue import Kind, Queue, Row
from prompt_jax.serve.reading import profile_of, some
from prompt_jax.serve.slots import PLAIN, Slots
from prompt_jax.serve.writing import How, admit, draws_of, empty_board, write

KIND = Kind("write")
TOGETHER = 4
"""Inputs that are read at once, where more than one waits for a place."""


class Written(NamedTuple):
    """An answer."""

    tokens: Int[np.ndarray, " U"]
    """With EOS where it ends by itself."""
    log_probs: Float[np.ndarray, " U"]
    """Of each token, before temperature and cuts."""
    digest: str
    """Of the prompt that wrote it; empty of the plain model."""


class Writer:
    """The rows of a board, all from the thread of an engine.

    Args:
      places: R, rows at once.
      length: T, to which inputs are padded.
      room: U, tokens of an answer at most.
      burst: tokens between two looks at the board.
    """

    def __init__(
        self,
        module: Any,
        frozen: Any,
        slots: Slots,
        profiles: Sequence[frozenset[str]],
        shapes: set[Any],
        *,
        places: int,
        length: int,
        room: int,
        burst: int,
    ):
        self._module, self._frozen, self._slots = module, frozen, slots
        self._profiles, self._shapes = tuple(profiles), shapes
        self._length, self._room, self._burst = length, room, burst
        self._rows: dict[int, Row] = {}
        self._told: dict[int, int] = {}
        self._places = places
        self._board = self._empty()

    def _empty(self) -> Any:
        given = (self._module, self._frozen, self._slots.bank.leaves)
        return empty_board(*given, self._places, self._length, self._room)

    @property
    def busy(self) -> bool:
        """Whether anything is being written."""
        return bool(self._rows)

    @property
    def rows(self) -> list[Row]:
        """Those that are being written."""
        return list(self._rows.values())

    def check(self, how: How) -> None:
        """Whether rows can be written so.

        Raises:
          TooLongError: more tokens than there is room for.
          InputError: numbers outside of their range.
        """
        at_least("max_new_tokens", how.max_new_tokens, 1)
        at_least("temperature", how.temperature, 0.0, "0 is greedy")
        at_least("top_k", how.top_k, 0, "0 draws among all tokens")
        if not 0.0 < how.top_p <= 1.0:
            raise InputError(f"top_p must be in (0, 1], got {how.top_p}")
        if not 0 <= how.seed < 2**32:
            raise InputError(f"seed must be from 0 to {2**32 - 1}, got {how.seed}")
        if how.max_new_tokens > self._room:
            raise TooLongError(
                f"max_new_tokens is {how.max_new_tokens} and {self._room} is the most; ask for "
                "fewer, or give the engine more"
            )

    def take(self, queue: Queue) -> list[Row]:
        """The next rows to write, as many as there are places."""
        free = self._places - len(self._rows)
        if not free or not queue.count(KIND):
            return []
        # One slot stays for what is read meanwhile.
        return queue.take(KIND, free, self._slots.room() - 1, self._slots.held)

    def admit(self, rows: list[Row]) -> None:
        """Reads the inputs of new rows and writes the first token of each."""
        free = iter([place for place in range(self._places) if place not in self._rows])
        for start in range(0, len(rows), TOGETHER):
            batch = rows[start : start + TOGETHER]
            self._admit(batch, list(itertools.islice(free, len(batch))))

    def _admit(self, rows: list[Row], places: list[int]) -> None:
        # Held from here on: who writes keeps the slot until the answer ends.
        slots = []
        for place, row in zip(places, rows, strict=True):
            slots.append(self._slots.place(row.version))
            self._slots.hold(row.version)
            self._rows[place], self._told[place] = row, 0
        more = TOGETHER - len(rows) if len(rows) > 1 else 0
        filled = [*rows, *[rows[0]] * more]
        tokens, mask = pad([row.tokens for row in filled], self._length, self._pad)
        self._read(
            profile_of(self._profiles, (row.version for row in rows)),
            [*places, *[self._places] * more],
            [*slots, *[slots[0]] * more],
            tokens,
            mask,
            [row.asked for row in filled],
        )

    def _read(
        self,
        part: frozenset[str],
        places: list[int],
        slots: list[int],
        tokens: np.ndarray,
        mask: np.ndarray,
        hows: list[How],
    ) -> None:
        self._shapes.add((KIND, part, len(places)))
        self._board = admit(
            self._module,
            self._frozen,
            some(self._slots.bank.leaves, part),
            self._board,
            np.array(places, np.int32),
            np.array(slots, np.int32),
            tokens,
            mask,
            draws_of(hows, self._module.config.vocab_size),
            room=self._room,
        )

    def go_on(self, poison: Callable[[Row], None]) -> None:
        """Writes some tokens, tells who listens, and lets go of answers that have ended.

        Args:
          poison: called with rows whose numbers are none.
        """
        wanted = np.zeros(self._places, bool)
        for place, row in list(self._rows.items()):
            wanted[place] = not row.gone()
            if not wanted[place]:
                self._leave(place)
        if not self._rows:
            return
        self._write(profile_of(self._profiles, (row.version for row in self.rows)), wanted)
        board = self._board
        steps, live, tokens, log_probs = jax.device_get(
            (board.step, board.live, board.tokens, board.log_probs)
        )
        for place, row in list(self._rows.items()):
            step = int(steps[place])
            if not np.isfinite(log_probs[place, :step]).all():
                self._leave(place)
                poison(row)
                continue
            new = tokens[place, self._told[place] : step].tolist()
            self._told[place] = step
            if new and row.asked.stream is not None:
                try:
                    row.asked.stream(new)
                except Exception as error:  # Of the caller's own making, and for the caller alone.
                    self._leave(place)
                    row.settle(error=error)
                    continue
            if not live[place]:
                self._leave(place)
                answer = tokens[place, :step].copy(), log_probs[place, :step].copy()
                row.settle(Written(*answer, row.version.digest))

    def _write(self, part: frozenset[str], wanted: np.ndarray) -> None:
        self._shapes.add((KIND, part, "tokens"))
        leaves = some(self._slots.bank.leaves, part)
        given = (self._module, self._frozen, leaves, self._board, wanted)
        self._board = write(*given, tokens=self._burst)

    def _leave(self, place: int) -> None:
        self._slots.let_go(self._rows.pop(place).version)
        del self._told[place]

    def forget(self, rows: Sequence[Row]) -> None:
        """Lets go of rows after a failure; a board that went with it is made anew."""
        mine = [place for place, row in self._rows.items() if row in rows]
        for place in mine:
            self._leave(place)
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(self._board)):
            self._board = self._empty()

    def drain(self) -> list[Row]:
        """All rows, which are written no more."""
        rows = self.rows
        for place in list(self._rows):
            self._leave(place)
        return rows

    def warm_up(self) -> None:
        """Compiles what reads inputs and writes answers; nobody may be writing."""
        for part in self._profiles:
            for count in (1, TOGETHER):
                tokens = np.full((count, self._length), self._pad, np.int32)
                mask = np.arange(self._length)[None] < np.ones((count, 1))
                nowhere, plain = [self._places] * count, [PLAIN] * count
                self._read(part, nowhere, plain, tokens, mask, [How()] * count)
            self._write(part, np.zeros(self._places, bool))

    @property
    def _pad(self) -> int:
        return self._module.config.filler
