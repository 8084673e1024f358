"""Batches that are answered by reading: which rows, in which program, and what its numbers say."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from prompt_jax.data import pad
from prompt_jax.serve.queue import Kind, Queue, Row
from prompt_jax.serve.reading import (
    Candidates,
    classify_rows,
    embed_rows,
    profile_of,
    score_rows,
    some,
)
from prompt_jax.serve.slots import PLAIN, Slots


class Scored(NamedTuple):
    """How likely each candidate is as the answer to a text."""

    log_likelihoods: Float[np.ndarray, " C"]
    digest: str
    """Of the prompt that answered; empty of the plain model. So everywhere."""


class Classified(NamedTuple):
    """What a prompt's head says of a text."""

    log_probs: Float[np.ndarray, " C"]
    digest: str


class Embedded(NamedTuple):
    """A text as a vector."""

    vector: Float[np.ndarray, " D"]
    digest: str


class Reader:
    """Answers rows that are not written, all from the thread of an engine.

    Args:
      sizes: of batches, growing.
      window: seconds that a row waits for others.
    """

    def __init__(
        self,
        module: Any,
        frozen: Any,
        slots: Slots,
        profiles: Sequence[frozenset[str]],
        shapes: set[Any],
        *,
        sizes: Sequence[int],
        window: float,
    ):
        self._module, self._frozen, self._slots = module, frozen, slots
        self._profiles, self._shapes = tuple(profiles), shapes
        self._sizes, self._window = tuple(sizes), window
        self.rows = self.batches = self.mixed = 0

    def next(self, queue: Queue, *, patient: bool) -> tuple[list[Row], float]:
        """The rows of a batch; or none, and the seconds that it is better to wait for some more."""
        most = self._sizes[-1]
        for kind in queue.kinds():
            if kind.what == "write":
                continue
            left = queue.oldest(kind) + self._window - time.monotonic()
            if patient and left > 0 and queue.count(kind) < most:
                return [], left
            rows = queue.take(kind, most, self._slots.room(), self._slots.held)
            if rows:
                return rows, 0.0
        return [], 0.0

    def read(self, rows: list[Row], poison: Callable[[Row], None]) -> None:
        """Answers rows of one kind.

        Args:
          poison: called with rows whose numbers are none.
        """
        kind = rows[0].kind
        part = profile_of(self._profiles, (row.version for row in rows))
        size = next(size for size in self._sizes if len(rows) <= size)
        digests = {row.version.digest for row in rows}
        slots = [self._slots.place(row.version, digests) for row in rows]
        more = size - len(rows)
        filled = [*rows, *[rows[0]] * more]
        tokens, mask = pad([row.tokens for row in filled], kind.length, self._pad)
        asked = [row.asked for row in filled]
        slots = np.array([*slots, *[slots[0]] * more], np.int32)
        found = np.asarray(self._ask(kind, part, slots, tokens, mask, asked))
        self.rows, self.batches = self.rows + len(rows), self.batches + 1
        self.mixed += len(digests) > 1
        for row, values in zip(rows, found, strict=False):
            values = values[: _count(row)]
            if np.isfinite(values).all():
                row.settle(ANSWERS[kind.what](values.copy(), row.version.digest))
            else:
                poison(row)

    def _ask(
        self,
        kind: Kind,
        part: frozenset[str],
        slots: np.ndarray,
        tokens: np.ndarray,
        mask: np.ndarray,
        asked: list[Any],
    ) -> Any:
        self._shapes.add((kind, part, len(slots)))
        leaves = some(self._slots.bank.leaves, part)
        given = (self._module, self._frozen, leaves, slots, tokens, mask)
        if kind.what == "embed":
            return embed_rows(*given)
        if kind.what == "classify":
            return classify_rows(*given, np.array(asked, np.int32))
        return score_rows(*given, *_stacked(asked, kind))

    def warm_up(self, kind: Kind) -> None:
        """Compiles a kind of batch, at all sizes."""
        empty = np.zeros((kind.count, kind.words), np.int32)
        asked = {"score": Candidates(empty, empty == 0, False), "classify": 1}.get(kind.what)
        for size in self._sizes:
            tokens = np.full((size, kind.length), self._pad, np.int32)
            mask = np.arange(kind.length)[None] < np.ones((size, 1))
            slots = np.full(size, PLAIN, np.int32)
            for part in self._profiles:
                if kind.what != "classify" or any(path.startswith("head/") for path in part):
                    found = self._ask(kind, part, slots, tokens, mask, [asked] * size)
                    jax.block_until_ready(found)

    def usual(self, lengths: Sequence[int], *, heads: bool) -> list[Kind]:
        """Two candidates of two tokens, an embedding and, where prompts have heads, a class."""
        words = 1 if self._module.config.is_encoder else 2
        found = [Kind("embed", length) for length in lengths]
        if self._module.config.word_head:
            found += [Kind("score", length, 2, words) for length in lengths]
        return found + [Kind("classify", length) for length in lengths if heads]

    @property
    def _pad(self) -> int:
        return self._module.config.filler


ANSWERS: dict[str, Callable[..., Any]] = {
    "score": Scored,
    "classify": Classified,
    "embed": Embedded,
}


def _count(row: Row) -> int | None:
    """How many of a row's numbers are its own and not padding."""
    return {"score": lambda: len(row.asked.tokens), "classify": lambda: row.asked}.get(
        row.kind.what, lambda: None
    )()


def _stacked(asked: Sequence[Candidates], kind: Kind) -> tuple[np.ndarray, ...]:
    """Candidates of all rows [B, C, U], where they are real, and what divides their scores."""
    shape = (len(asked), kind.count, kind.words)
    tokens, real = np.zeros(shape, np.int32), np.zeros(shape, bool)
    divisor = np.ones(shape[:2], np.int32)
    for i, each in enumerate(asked):
        count = len(each.tokens)
        tokens[i, :count], real[i, :count] = each.tokens, each.real
        if each.normalize:
            divisor[i, :count] = each.real.sum(1)
    return tokens, real, divisor
