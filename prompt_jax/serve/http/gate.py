"""The gate before the application: refuses what is no sane request, whoever sends it."""

import asyncio
import re
import time
from collections.abc import Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_jax.serve.http.errors import Refused, body_of
from prompt_jax.serve.http.metrics import Metrics
from prompt_jax.serve.http.run import is_loopback

HOST = re.compile(r"([A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
DRAINED = 16
"""Times the limit that is read of a body that is too large, so that its sender hears why."""


class Gate:
    """Refuses what is no sane request: of a strange host, larger or slower than allowed.

    Args:
      metrics: where what passes is counted.
      hosts: names that a request may be sent to, beside those of loopback; None allows all.
      limit: bytes of a body at most.
      patience: seconds until a request is over, whoever is slow.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        hosts: Sequence[str] | None,
        limit: int,
        patience: float,
    ):
        self.app, self.metrics, self.limit, self.patience = app, metrics, limit, patience
        self.hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it; an ASGI application itself."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, read = time.monotonic(), 0, 0

        async def noted(message: Message) -> None:
            nonlocal status
            status = status or message.get("status", 0)
            await send(message)

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limit:
                raise Refused(413, "too_large", f"a body has at most {self.limit} bytes")
            return message

        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        length = headers.get(b"content-length", b"0")
        try:
            async with asyncio.timeout(self.patience):
                if problem := self._host_problem(host):
                    await refuse(noted, 400, "invalid_host", problem)
                elif not length.isdigit() or int(length) > self.limit:
                    await _drain(receive, DRAINED * self.limit)
                    message = f"a body has at most {self.limit} bytes"
                    await refuse(noted, 413, "too_large", message)
                else:
                    await self.app(scope, counted, noted)
        except TimeoutError:
            if not status:
                await refuse(noted, 408, "too_slow", f"a request has {self.patience:.0f} s in all")
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.took.labels(route).observe(time.monotonic() - began)
            if status >= 400:
                self.metrics.failed.labels(route, str(status)).inc()

    def _host_problem(self, host: str) -> str:
        """Why a request to this host is not answered; empty where it is."""
        match = HOST.fullmatch(host)
        if match is None:
            return "the Host header is none" if host or self.hosts is not None else ""
        name = match[1].strip("[]").lower()
        # A web page may give its own name the address of this machine (DNS rebinding); its browser
        # then takes the server for the page's own, but still sends the page's name.
        if self.hosts is None or name in self.hosts or is_loopback(name):
            return ""
        return (
            f"this server answers to localhost, 127.0.0.1 and [::1], got the host {name[:80]!r}; "
            "start it with --hosts NAME for another name"
        )


async def _drain(receive: Receive, limit: int) -> None:
    """Reads a body and forgets it."""
    read, unread = 0, True
    while unread and read <= limit:
        message = await receive()
        read, unread = read + len(message.get("body", b"")), message.get("more_body", False)


async def refuse(send: Send, status: int, code: str, message: str) -> None:
    """An error without an application."""
    response = JSONResponse(body_of(status, code, message), status)
    await send({"type": "http.response.start", "status": status, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body})
