"""Connections that wait for no one: one that says nothing is closed, and makes room for others."""

import asyncio
import json
import time
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prompt_jax.serve.http.errors import body_of

HEAD = 10.0
"""Seconds from a connection's first byte, or its beginning, to the end of a request's head."""
HEAD_BYTES = 2**16
"""Bytes of a request's head at most."""
CONNECTIONS = 4096
"""Open connections; where there are more, the one that has said nothing for longest is closed."""


class Connection(HttpToolsProtocol):
    """A connection of uvicorn that is closed where it asks for nothing."""

    _since = 0.0
    """When it began to wait for a request's head."""
    _limit: asyncio.TimerHandle | None = None
    _in_head, _unread, _size = False, 0, 0
    """Whether some of a head is here but not all; how much of it came later, and is parsed."""

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
        # Before this the head may stand behind a body, and so much of the data is not its own.
        self._unread = self._unread + len(data) if self._in_head else 0
        super().data_received(data)
        if self._in_head and self._unread > HEAD_BYTES:
            self.send_400_response(f"a head has at most {HEAD_BYTES} bytes")
        elif not self.silent:
            self._stop()
        elif self._limit is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the wait with the connection."""
        self._stop()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begins to read a head; one of the parser's calls, as those below."""
        self._in_head, self._size = True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Takes a part of what is asked for."""
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header, or what stands behind a body as one."""
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begins to answer.

        Raises:
          ValueError: nobody can tell which host it is for; it is answered with 400, as are all
            errors of a head.
        """
        self._in_head = False
        hosts = sum(name == b"host" for name, _ in self.headers)
        assert self.parser is not None  # Which calls this.
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            raise ValueError(f"a head has one Host, got {hosts}")
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Notes when it began to be silent again; uvicorn closes it after `timeout_keep_alive`."""
        self._since = time.monotonic()
        super().on_response_complete()
        if self.silent and self._in_head:  # Of the next head some is here already.
            self._wait()

    @property
    def silent(self) -> bool:
        """Whether it has asked for nothing, or for no more."""
        return self.cycle is None or (self.cycle.response_complete and not self.pipeline)

    def hang_up(self) -> None:
        """Closes it without a word."""
        self.timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP hears so in the shape of all errors."""
        body = json.dumps(body_of(400, "invalid_http", msg)).encode()
        head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close"
        self.transport.write(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def _grow(self, size: int) -> None:
        """Counts a part of a head."""
        self._size += size
        if self._size > HEAD_BYTES:
            raise ValueError(f"a head has at most {HEAD_BYTES} bytes")

    def _wait(self) -> None:
        self._stop()
        self._since, self._limit = time.monotonic(), self.loop.call_later(HEAD, self.hang_up)

    def _stop(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
