"""A server from start to end: ready once it is warm, and gone once what it took is answered."""

import gc
import ipaddress
import math
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from prompt_jax.config import InputError, at_least
from prompt_jax.serve.http import connections
from prompt_jax.serve.http.keys import Keys

CLOSE = (b"connection", b"close")
SLACK = 15.0
"""Seconds for sending and receiving, beside those that a request has for its answer."""
SWITCH = 0.001
"""Seconds after which a thread gives the interpreter to another that waits for it."""


def share_interpreter() -> None:
    """Keeps threads from holding up each other; what a server does once it is warm.

    The engine, the event loop and what compiles beside them are threads of one interpreter.
    """
    # Python's own 5 ms are long beside a batch, which needs the interpreter several times.
    sys.setswitchinterval(SWITCH)
    gc.collect()
    # All that is there stays to the end. The collector would look through it now and then, for
    # 0.2 s in which no thread runs.
    gc.freeze()


def is_loopback(host: str) -> bool:
    """Whether a name or an address is that of this machine for itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_open(host: str, keys: Keys) -> None:
    """Checks that a server without keys is for its own machine alone."""
    if not keys and not is_loopback(host):
        raise InputError(
            f"a server on {host} can be reached by others and has no keys; give --keys FILE, or "
            "--host 127.0.0.1"
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that a port that is taken is reported first.

    A client that connects before the server is ready waits for it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    # A server that has just ended leaves its connections to the system for a while.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(f"cannot listen on {host}:{port}: {error}; give another --port") from error
    return listener


class Server(uvicorn.Server):
    """Leaves in three steps: not ready, closed to new requests, gone once all are answered.

    Args:
      drain: seconds from SIGTERM on in which `/readyz` says 503 and requests are still taken, so
        that a load balancer can learn of it. A second SIGTERM, or Ctrl-C, cuts them short.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain: float):
        super().__init__(config)
        self._app, self._drain, self._until = app, drain, math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to leave; the handler of signals."""
        if sig == signal.SIGTERM and self._drain and not self._app.state.leaving:
            self._app.state.leaving, self._until = True, time.monotonic() + self._drain
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether to close; asked ten times a second."""
        if time.monotonic() >= self._until:
            super().handle_exit(signal.SIGTERM, None)
        end = await super().on_tick(counter)
        headers = self.server_state.default_headers
        # A client that keeps its connection would ask once more while it is being closed.
        if self._app.state.leaving and CLOSE not in headers:
            self.server_state.default_headers = [*headers, CLOSE]
        return end


def server_of(
    app: FastAPI, host: str, port: int, *, timeout: float = 60.0, drain: float = 0.0
) -> Server:
    """A server that drains on SIGTERM: what is being answered is answered to its end.

    Args:
      timeout: seconds that a request has for its answer.
      drain: see `Server`.
    """
    at_least("drain_seconds", drain, 0.0)
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_keep_alive=30, server_header=False,
        timeout_graceful_shutdown=math.ceil(timeout + SLACK), http=connections.Connection,
        limit_concurrency=connections.CONNECTIONS, ws="none", access_log=False,
        log_config=None, lifespan="on",
    )  # fmt: skip
    return Server(config, app, drain)
