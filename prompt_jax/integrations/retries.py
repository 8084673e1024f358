"""Another try, where an engine or a server is too busy to take a request."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

from prompt_jax.serve import QueueFullError

FIRST, LONGEST = 0.5, 8.0
"""Seconds of a pause; each is twice as long as the one before."""
Answer = TypeVar("Answer")


class Tries:
    """Counts the tries of a request, and says how long to wait before the next one."""

    def __init__(self, retries: int):
        self._left, self._pause = retries, FIRST

    def pause(self, error: QueueFullError) -> float:
        """Seconds to wait; raises the error where no try is left."""
        if not self._left:
            raise error
        # Callers that were refused together shall not come back together.
        pause = max(error.after, self._pause * random.uniform(0.5, 1.0))
        self._left, self._pause = self._left - 1, min(2 * self._pause, LONGEST)
        return pause


def tried(retries: int, work: Callable[..., Answer], *arguments: object) -> Answer:
    """What some work gives, tried again while it is refused."""
    tries = Tries(retries)
    while True:
        try:
            return work(*arguments)
        except QueueFullError as error:
            time.sleep(tries.pause(error))


def written(write: Callable[[], Iterator[Answer]], retries: int) -> Iterator[Answer]:
    """The pieces of an answer, begun again while it is refused: with its first piece it is not."""

    def begin() -> tuple[Answer, Iterator[Answer]]:
        pieces = write()
        return next(pieces), pieces

    first, rest = tried(retries, begin)
    yield first
    yield from rest


async def awritten(
    write: Callable[[], AsyncIterator[Answer]], retries: int
) -> AsyncIterator[Answer]:
    """As `written`, for an event loop."""
    tries = Tries(retries)
    while True:
        pieces = write()
        try:
            first = await anext(pieces)
            break
        except QueueFullError as error:
            await asyncio.sleep(tries.pause(error))
    yield first
    async for piece in pieces:
        yield piece
