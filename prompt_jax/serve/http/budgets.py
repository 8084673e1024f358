"""How much a key may ask for: requests a minute, requests at once, tokens a day."""

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

from prompt_jax.config import InputError
from prompt_jax.serve.errors import QueueFullError
from prompt_jax.serve.http.errors import Refused

MINUTE, DAY = 60.0, 86_400.0


class Limits(NamedTuple):
    """The most that a key may ask for; None is no limit."""

    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    """Tokens of texts and of answers together."""


class Allowance:
    """So much in so many seconds: all of it at first, and what is used grows back evenly.

    What is used may be more than what is left, since an answer's length is not known before it is
    written; the debt has to grow back as well.
    """

    def __init__(self, amount: int | None, seconds: float):
        self._most = math.inf if amount is None else float(amount)
        self._growth = self._most / seconds
        self._left, self._at = self._most, time.monotonic()

    def wait(self, now: float) -> float:
        """Seconds until there is one to use."""
        if self._most == math.inf:
            return 0.0
        self._left = min(self._most, self._left + (now - self._at) * self._growth)
        self._at = now
        return max(0.0, (1 - self._left) / self._growth)

    def use(self, amount: int) -> None:
        """Takes so much of it."""
        self._left -= amount


class Spending:
    """What one request has used of an allowance."""

    def __init__(self, allowance: Allowance):
        self._allowance, self._used = allowance, 0

    def use(self, amount: int) -> None:
        """Takes so much of it."""
        self._allowance.use(amount)
        self._used += amount

    def give_back(self) -> None:
        """Gives back all that the request took."""
        self.use(-self._used)


class Budget:
    """What is left to one key; of one event loop, as requests are."""

    def __init__(self, limits: Limits):
        self._limits, self._running = limits, 0
        self._requests = Allowance(limits.requests_per_minute, MINUTE)
        self._tokens = Allowance(limits.tokens_per_day, DAY)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """One request of the key, from its start to the end of its answer.

        One that is refused costs no tokens.

        Raises:
          Refused: it is one too many.
        """
        now, limits = time.monotonic(), self._limits
        if limits.concurrent_requests is not None and self._running >= limits.concurrent_requests:
            raise _too_many(f"{limits.concurrent_requests} requests at once", 1.0)
        if wait := self._requests.wait(now):
            raise _too_many(f"{limits.requests_per_minute} requests a minute", wait)
        if wait := self._tokens.wait(now):
            raise _too_many(f"{limits.tokens_per_day} tokens a day", wait)
        self._requests.use(1)
        self._running += 1
        spending = Spending(self._tokens)
        token = _SPENDING.set(spending)
        try:
            yield
        except (InputError, QueueFullError, Refused):
            spending.give_back()
            raise
        finally:
            self._running -= 1
            _SPENDING.reset(token)


# A variable of the context, which the tasks of a request inherit: what reads and writes tokens is
# far below the route, and a route that is added later cannot forget to hand it on.
_SPENDING: ContextVar[Spending | None] = ContextVar("spending", default=None)


def spend(tokens: int) -> None:
    """Takes tokens from the budget of the key whose request this is."""
    spending = _SPENDING.get()
    if spending is not None:
        spending.use(tokens)


def _too_many(limit: str, wait: float) -> Refused:
    seconds = math.ceil(wait)
    return Refused(
        429, "rate_limit_exceeded", f"this key may have {limit}; ask again in {seconds} s",
        retry_after=seconds,
    )  # fmt: skip
