"""The gate before the application: refuses what is no sane request, and notes all that pass."""

import asyncio
import logging
import re
import time
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_jax.serve.http.errors import Refused, response_to
from prompt_jax.serve.http.logs import ACCESS, HEADER, Trace, tracing
from prompt_jax.serve.http.metrics import Metrics
from prompt_jax.serve.http.run import is_loopback
from prompt_jax.serve.http.traces import Traces

HOST = re.compile(r"([A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
UPLOADS = re.compile("/v1/prompts/[^/]+")
BODY = 2**20
"""Bytes of a body at most, but for those of uploads."""
DRAINED = 2**24
"""Bytes that are read of a body that is too large, so that its sender hears why."""
REQUESTS = 2048
"""Requests under way at most."""
PROBES = ("/livez", "/readyz", "/health")
"""Paths that are answered however much else is asked, and whose lines nobody wants to read."""
LEFT, LATE = 499, 504
"""Codes of answers that broke off: the client left, or the time was over."""


class Sent:
    """What has been sent of an answer."""

    def __init__(self, send: Send, request: Trace):
        self._send, self._header = send, (HEADER.encode(), request.id.encode())
        self.status, self._complete = 0, False

    async def send(self, message: Message) -> None:
        """Sends a part of it; an ASGI `send` itself."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), self._header]}
        else:
            self._complete = not message.get("more_body", False)
        await self._send(message)

    def code(self, broken: int) -> int:
        """The status as it should have been: `broken` of an answer that was not sent to its end."""
        return self.status if self._complete else broken


class Gate:
    """Refuses what is no sane request: of a strange host, larger or slower than allowed.

    Every request is counted here and has its line in the log, whatever becomes of it.

    Args:
      metrics: where they are counted.
      hosts: names that a request may be sent to, beside those of loopback; None allows all.
      upload: bytes of an uploaded prompt at most; other bodies have at most 1 MiB.
      patience: seconds until a request is over, whether client or server is slow.
      traces: what writes a trace of each; None writes none.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        hosts: Sequence[str] | None,
        upload: int,
        patience: float,
        traces: Traces | None,
    ):
        self.traces = traces
        self.app, self.metrics, self.upload, self.patience = app, metrics, upload, patience
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it; an ASGI application itself."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # As GET; uvicorn leaves out what it answers.
            scope = {**scope, "method": "GET"}
        headers, began, broken = Headers(scope=scope), time.monotonic(), LEFT
        with tracing(headers) as request:
            sent = Sent(send, request)
            if self.traces is not None and scope["path"] not in PROBES:
                request.span = self.traces.begin(scope, headers)
            self._running += 1
            try:
                async with asyncio.timeout(self.patience) as limit:
                    await self._pass(scope, headers, receive, sent.send)
            except ClientDisconnect:
                pass  # In the middle of what it sent.
            except Exception as error:
                slow = isinstance(error, TimeoutError) and limit.expired()
                if slow:
                    message = f"a request has {self.patience:.0f} s in all"
                    broken, error = LATE, Refused(408, "too_slow", message)
                response = response_to(error)
                if not sent.status:
                    await response(scope, receive, sent.send)
                elif not slow:  # Half an answer: its connection is closed.
                    raise
            finally:
                self._running -= 1
                code = request.broken or sent.code(broken)
                self._note(scope, request, code, time.monotonic() - began)

    async def _pass(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        read = 0
        uploads = scope["method"] == "PUT" and UPLOADS.fullmatch(scope["path"])
        limit = self.upload if uploads else BODY
        too_large = f"a body has at most {limit} bytes here"

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise Refused(413, "too_large", too_large)
            return message

        length = headers.get("content-length", "0")
        if problem := self._host_problem(headers.get("host", "")):
            await refuse(send, 400, "invalid_host", problem)
        elif not length.isdigit() or int(length) > limit:
            await _drain(receive, DRAINED)
            await refuse(send, 413, "too_large", too_large)
        elif self._running > REQUESTS and scope["path"] not in PROBES:
            message = f"{REQUESTS} requests are under way already; try again in a moment"
            await refuse(send, 503, "overloaded", message)
        else:
            await self.app(scope, counted, send)

    def _note(self, scope: Scope, request: Trace, code: int, seconds: float) -> None:
        """Counts a request, and writes its line."""
        route = getattr(scope.get("route"), "path", "none")
        self.metrics.note(route, list(request.prompts.values()), code, seconds)
        fields = {
            "method": scope["method"], "route": route, "status": code,
            "ms": round(1000 * seconds, 1), "client": (scope.get("client") or ("",))[0],
        }  # fmt: skip
        if request.prompts:
            fields["prompt"] = ",".join(request.prompts)[:500]
        level = logging.DEBUG if route in PROBES and code == 200 else logging.INFO
        ACCESS.log(level, "request", extra={"fields": fields})
        if self.traces is not None:
            self.traces.end(request, fields)

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
    response = response_to(Refused(status, code, message))
    start = {"type": "http.response.start", "status": status, "headers": response.raw_headers}
    await send(start)
    await send({"type": "http.response.body", "body": response.body})
