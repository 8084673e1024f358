"""Every route is closed unless this table opens it."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse

from prompt_jax.serve.http.answers import Refused, body_of
from prompt_jax.serve.http.keys import NOBODY, Keys
from prompt_jax.serve.http.metrics import Metrics

OPEN = None
ROUTES: dict[tuple[str, str], str | None] = {
    ("GET", "/"): OPEN,
    ("GET", "/livez"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/health"): OPEN,
    ("GET", "/metrics"): "admin",
    ("GET", "/openapi.json"): "infer",
    ("GET", "/v1/key"): "infer",
    ("GET", "/v1/models"): "infer",
    ("GET", "/v1/models/{model:path}"): "infer",
    ("POST", "/v1/completions"): "infer",
    ("POST", "/v1/chat/completions"): "infer",
    ("POST", "/v1/embeddings"): "infer",
    ("POST", "/v1/classify"): "infer",
    ("POST", "/v1/generate"): "infer",
    ("GET", "/v1/prompts"): "infer",
    ("GET", "/v1/prompts/{name}"): "infer",
    ("PUT", "/v1/prompts/{name}"): "admin",
    ("DELETE", "/v1/prompts/{name}/{version}"): "admin",
    ("PUT", "/v1/prompts/{name}/aliases/{alias}"): "admin",
    ("POST", "/v1/load_lora_adapter"): "admin",
    ("POST", "/v1/unload_lora_adapter"): "admin",
}
"""Method and path -> the scope that it asks for, or OPEN."""


class Guarded(APIRoute):
    """A route that asks for its key before it reads anything, and ends when its client leaves."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI has it."""
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            authorize(request, self.path)
            await request.body()
            return await _unless_gone(request, answer(request))

        return handler


def authorize(request: Request, path: str) -> None:
    """Notes in `request.state.key` whose request it is.

    Args:
      path: of its route.

    Raises:
      Refused: no key or a wrong one, one without the scope, or a route that the table has not.
    """
    keys: Keys = request.app.state.keys
    place = (request.method, path)
    if place not in ROUTES:
        raise Refused(403, "forbidden", "this route is open to nobody")
    scope = ROUTES[place]
    key = keys.find(request.headers.get("authorization"))
    if scope is not OPEN:
        if key is None:
            raise Refused(401, "invalid_api_key", "no such API key; send Authorization: Bearer KEY")
        if scope not in key.scopes:
            raise Refused(403, "forbidden", f"this key has no scope {scope!r}")
    request.state.key = key or NOBODY


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The response of some work, which is given up when nobody waits for it."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(499, "gone", "the client left")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


HOST = re.compile(r"[A-Za-z0-9.\-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


class Gate:
    """What a request is before it is one: of a sane host, no larger and no slower than allowed.

    Args:
      app: the application behind it.
      metrics: where what passes is counted.
      most: bytes of a body.
      patience: seconds until a request is over, whoever is slow.
    """

    def __init__(self, app, metrics: Metrics, most: int, patience: float):
        self.app, self.metrics, self.most, self.patience = app, metrics, most, patience

    async def __call__(self, scope, receive, send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def noted(message):
            nonlocal status
            status = status or message.get("status", 0)
            await send(message)

        try:
            async with asyncio.timeout(self.patience):
                await self._pass(scope, receive, noted)
        except TimeoutError:
            if not status:
                await refuse(noted, 408, "too_slow", f"a request has {self.patience:.0f} s in all")
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.took.labels(route).observe(time.monotonic() - began)
            if status >= 400:
                self.metrics.failed.labels(route, str(status)).inc()

    async def _pass(self, scope, receive, send) -> None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        length = headers.get(b"content-length", b"0")
        if host and not HOST.fullmatch(host):
            await refuse(send, 400, "invalid_host", "the Host header is none")
        elif not length.isdigit() or int(length) > self.most:
            await passed_over(receive, DRAINED * self.most)
            await refuse(send, 413, "too_large", f"a body has at most {self.most} bytes")
        else:
            await self.app(scope, self._counted(receive), send)

    def _counted(self, receive):
        seen = 0

        async def counted():
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.most:
                raise Refused(413, "too_large", f"a body has at most {self.most} bytes")
            return message

        return counted


DRAINED = 16
"""Times the most that is read of a body that is too large, so that its sender hears why."""


async def passed_over(receive, most: int) -> None:
    """Reads a body and forgets it."""
    seen, more = 0, True
    while more and seen <= most:
        message = await receive()
        seen, more = seen + len(message.get("body", b"")), message.get("more_body", False)


async def refuse(send, status: int, code: str, message: str) -> None:
    """An error without an application."""
    response = JSONResponse(body_of(status, code, message), status)
    await response({"type": "http"}, None, send)  # type: ignore[arg-type]
