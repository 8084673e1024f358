"""A route: lets its caller in, checks what it sends, and ends when its client leaves.

FastAPI describes the routes in `/openapi.json`. A request goes past it, from the gate to its route
by a table: what FastAPI puts in between would take a third of a request's time.
"""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar, get_type_hints

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, APIRouter
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from prompt_jax.serve.http.auth import ROUTES, Door
from prompt_jax.serve.http.errors import LATE, Refused, late, refusal_of

Handler: TypeAlias = Callable[..., Awaitable[object]]
"""Answers a request; takes `request`, `body` and the parts of its path by their names."""
Value = TypeVar("Value")


class Application(FastAPI):
    """An application whose middleware stands right before its routes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request; an ASGI application itself."""
        # FastAPI's own would write traces beside ours (`traces.py`).
        await Starlette.__call__(self, scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        """What every request passes, the outermost first; Starlette asks for it once."""
        stack: ASGIApp = Table(self.router)
        for middleware, arguments, options in reversed(self.user_middleware):
            stack = middleware(stack, *arguments, **options)
        return stack

    def check_routes(self) -> None:
        """Checks that every route is behind the door.

        Raises:
          LookupError: one is not.
        """
        for route in self.routes:
            if not isinstance(route, Guarded):
                raise LookupError(
                    f"{route} asks for no key; add it by app.get, app.post and the like"
                )


class Table:
    """Finds the route of a request: at once by its path, or by the router where paths vary."""

    def __init__(self, router: APIRouter):
        self._router = router
        self._plain = {
            (method, route.path): route
            for route in router.routes
            if isinstance(route, Guarded) and not route.param_convertors
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on to its route; an ASGI application itself."""
        route = self._plain.get((scope.get("method", ""), scope.get("path", "")))
        if route is None:
            await self._router(scope, receive, send)
        else:
            scope["route"] = route  # As the router notes it.
            await route.handle(scope, receive, send)


class Guarded(APIRoute):
    """A route that lets its caller in before it reads anything, and ends when its client leaves.

    Args:
      endpoint: see `Handler`; what it returns is sent as JSON, unless it is a response.

    Raises:
      LookupError: the table of scopes does not have the route.
    """

    def __init__(self, path: str, endpoint: Handler, **options: Any):
        super().__init__(path, endpoint, **options)
        for method in self.methods or ():
            if (method, path) not in ROUTES:
                raise LookupError(f"{method} {path} has no scope; add it to ROUTES")
        hints = get_type_hints(endpoint)
        self._arguments = tuple(inspect.signature(endpoint).parameters)
        self._adapters = {name: TypeAdapter(hints[name]) for name in self.param_convertors}
        self._form: type[BaseModel] | None = hints.get("body")

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, to the last byte, with `request.state.view` of its key."""
        methods = self.methods or set()
        if scope["method"] not in methods:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(methods))})
        request = Request(scope, receive, send)
        door: Door = request.app.state.door
        with door.admit(request.headers, ROUTES[scope["method"], self.path]) as view:
            request.state.view = view
            response = await self._answer(request)
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        # The body is read first: `_leaves` takes messages from the same channel.
        values = self._values(request, await request.body())
        # The engine ends late requests itself, but not while its device hangs.
        timeout = request.app.state.responses.timeout
        left = None
        try:
            async with asyncio.timeout(timeout + LATE) as limit:
                left = asyncio.ensure_future(_leaves(request, limit))
                try:
                    answer = await self.endpoint(**values)
                finally:
                    left.cancel()  # Within the limit, which it may not touch afterwards.
        except TimeoutError:
            if not limit.expired():
                raise
            gone = left is not None and left.done() and not left.cancelled()
            raise Refused(499, "gone", "the client left") if gone else late(timeout) from None
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    def _values(self, request: Request, body: bytes) -> dict[str, object]:
        """The arguments of the handler.

        Raises:
          Refused: the body or a part of the path is not as it has to be.
        """
        values: dict[str, object] = {}
        for name in self._arguments:
            if name == "request":
                values[name] = request
            elif name == "body" and self._form is not None:
                values[name] = checked(self._form.model_validate, _sent(request, body))
            else:
                value = request.path_params[name]
                values[name] = checked(self._adapters[name].validate_python, value, "path", name)
        return values


def checked(validate: Callable[..., Value], value: object, *place: str) -> Value:
    """A value as pydantic takes it.

    Args:
      place: where it stands in a request, but for bodies.

    Raises:
      Refused: it does not.
    """
    try:
        return validate(value, from_attributes=True)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise refusal_of([{**p, "loc": (*place, *p["loc"])} for p in problems]) from None


def _sent(request: Request, body: bytes) -> object:
    """What a body has: JSON where its type says so."""
    if not body:
        raise refusal_of([{"type": "missing", "loc": (), "msg": "Field required"}])
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        return body  # Which no schema takes: a page of another site may send such a body unasked.
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        problem = {"type": "json_invalid", "loc": (error.pos,), "msg": "JSON decode error"}
        raise refusal_of([problem]) from None
    except (ValueError, RecursionError):  # No UTF-8, a number of 5,000 digits, too deep.
        raise Refused(400, "http", "There was an error parsing the body") from None


async def _leaves(request: Request, limit: asyncio.Timeout) -> None:
    """Ends what has a limit once the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    limit.reschedule(0.0)  # Long ago.
