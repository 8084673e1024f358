"""Connections that wait for no one: one that says nothing is closed, and makes room for others."""

import asyncio
import json
import time
from typing import cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from prompt_jax.serve.http.errors import body_of

HEAD = 10.0
"""Seconds from a connection's first byte, or its beginning, to the end of a request's head."""
CONNECTIONS = 4096
"""Open connections; where there are more, the one that has said nothing for longest is closed."""


class Connection(H11Protocol):
    """A connection of uvicorn that is closed where it asks for nothing."""

    _since = 0.0
    """When it began to wait for a request's head."""
    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: object) -> None:
        """Begins to wait for the first head."""
        # `object`: uvloop's transports are none of asyncio's.
        super().connection_made(cast(asyncio.Transport, transport))
        self._wait()
        # uvicorn would refuse the newest, which may be that of a probe, and in words of its own.
        most, self.limit_concurrency = self.limit_concurrency, None
        if most is not None and len(self.connections) > most:
            silent = [peer for peer in self.connections if isinstance(peer, Connection)]
            silent = [peer for peer in silent if peer.silent]
            min(silent, key=lambda peer: peer._since).hang_up()

    def data_received(self, data: bytes) -> None:
        """Takes what comes; a part of a head gives no more time for the rest of it."""
        super().data_received(data)
        if not self.silent:
            self._stop()
        elif self._limit is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the wait with the connection."""
        self._stop()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Notes when it began to be silent again; uvicorn closes it after `timeout_keep_alive`."""
        self._since = time.monotonic()
        super().on_response_complete()
        if self.silent and self.conn.trailing_data[0]:  # Of the next head some is here already.
            self._wait()

    @property
    def silent(self) -> bool:
        """Whether it has asked for nothing, or for no more."""
        return self.conn.their_state is h11.IDLE

    def hang_up(self) -> None:
        """Closes it without a word."""
        self.timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP hears so in the shape of all errors."""
        body = json.dumps(body_of(400, "invalid_http", msg)).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        headers.append(("connection", "close"))
        for part in (
            h11.Response(status_code=400, headers=headers, reason="Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def _wait(self) -> None:
        self._stop()
        self._since, self._limit = time.monotonic(), self.loop.call_later(HEAD, self.hang_up)

    def _stop(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
