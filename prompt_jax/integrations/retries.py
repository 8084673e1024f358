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

    def pause(self, error: QueueFullError, *, begun: bool = False) -> float:
        """Seconds to wait; raises the error where no try is left or some of an answer is there."""
        if begun or not self._left:
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
    """The pieces of an answer, begun again while it is refused."""
    tries = Tries(retries)
    while True:
        begun = False
        try:
            for piece in write():
                begun = True
                yield piece
            return
        except QueueFullError as error:
            time.sleep(tries.pause(error, begun=begun))


async def awritten(
    write: Callable[[], AsyncIterator[Answer]], retries: int
) -> AsyncIterator[Answer]:
    """As `written`, for an event loop."""
    tries = Tries(retries)
    while True:
        begun = False
        try:
            async for piece in write():
                begun = True
                yield piece
            return
        except QueueFullError as error:
            await asyncio.sleep(tries.pause(error, begun=begun))
