"""Who may ask, for what, and about which prompts: every route is closed unless a table opens it."""

import asyncio
import fnmatch
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_jax.config import InputError
from prompt_jax.serve.http.errors import Refused, body_of
from prompt_jax.serve.http.metrics import Metrics

SCOPES = ("infer", "admin")
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
    ("POST", "/v1/responses"): "infer",
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


class Key(NamedTuple):
    """Somebody with an API key."""

    name: str
    digest: str
    """sha256 of the key, in hex; the key itself is stored nowhere."""
    scopes: tuple[str, ...] = ("infer",)
    prompts: tuple[str, ...] = ("*",)
    """Patterns of the names that it may see and use; the base is always among them."""

    def sees(self, name: str) -> bool:
        """Whether prompts of this name exist for it."""
        # `fnmatch.fnmatch` ignores case on some systems, and a key sees the same prompts on all.
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.prompts)


ANYBODY, NOBODY = Key("anybody", "", SCOPES), Key("nobody", "", (), ())


class Keys:
    """All keys of a server; without any, everybody may do everything.

    Args:
      keys: at least one, unless the server is for its own machine alone.
    """

    def __init__(self, keys: tuple[Key, ...] = ()):
        self._keys = keys

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, header: str | None) -> Key | None:
        """The key of `Authorization: Bearer KEY`; None where it is nobody's."""
        if not self._keys:
            return ANYBODY
        scheme, _, secret = (header or "").partition(" ")
        digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogatepass")).hexdigest()
        match = None
        # All are compared, in equal time, so that the time of an answer tells nothing of a key.
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                match = key
        return match if scheme.lower() == "bearer" else None


def read_keys(path: str | Path) -> Keys:
    """The keys of a file: a JSON list of `name`, `sha256`, `scopes` and `prompts`."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the keys of {path} cannot be read: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} is a JSON list of keys, at least one")
    return Keys(tuple(_key(path, number, row) for number, row in enumerate(rows)))


def _key(path: str | Path, number: int, row: object) -> Key:
    fields = {"name", "sha256", "scopes", "prompts"}
    if not isinstance(row, dict) or not {"name", "sha256"} <= row.keys() <= fields:
        raise InputError(f"key {number} of {path} has {', '.join(sorted(fields))}, got {row!r}")
    digest, scopes = str(row["sha256"]).lower(), tuple(row.get("scopes", ("infer",)))
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise InputError(f"sha256 of key {number} of {path} is 64 hex digits")
    if not scopes or set(scopes) - set(SCOPES):
        raise InputError(f"scopes of key {number} of {path} are of {SCOPES}, got {scopes}")
    return Key(str(row["name"]), digest, scopes, tuple(map(str, row.get("prompts", ("*",)))))


class Guarded(APIRoute):
    """A route that asks for its key before it reads anything, and ends when its client leaves."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler of the route, with a guard before it."""
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            authorize(request, self.path)
            # The body is read first: `_disconnected` takes messages from the same channel.
            await request.body()
            work = asyncio.ensure_future(answer(request))
            left = asyncio.ensure_future(_disconnected(request))
            try:
                await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    raise Refused(499, "gone", "the client left")
                return work.result()
            finally:
                work.cancel()
                left.cancel()

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
    # A route that was added to the application and not to the table stays closed.
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


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


HOST = re.compile(r"[A-Za-z0-9.\-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
DRAINED = 16
"""Times the limit that is read of a body that is too large, so that its sender hears why."""


class Gate:
    """Refuses what is no sane request: of a strange host, larger or slower than allowed.

    Args:
      metrics: where what passes is counted.
      limit: bytes of a body at most.
      patience: seconds until a request is over, whoever is slow.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, limit: int, patience: float):
        self.app, self.metrics, self.limit, self.patience = app, metrics, limit, patience

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
                if host and not HOST.fullmatch(host):
                    await refuse(noted, 400, "invalid_host", "the Host header is none")
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
