"""The application: routes over a catalog, behind keys and limits."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from prompt_jax.config import InputError
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.http import errors
from prompt_jax.serve.http.auth import Gate, Guarded, Keys
from prompt_jax.serve.http.errors import Refused
from prompt_jax.serve.http.metrics import Metrics
from prompt_jax.serve.http.native import add_native
from prompt_jax.serve.http.openai import add_openai
from prompt_jax.serve.http.openai_responses import add_responses
from prompt_jax.serve.http.page import add_page
from prompt_jax.serve.http.prompts import add_prompts
from prompt_jax.serve.http.responses import Responses

LOG = logging.getLogger(__name__)
SLACK = 15.0
"""Seconds for sending and receiving, beside those that a request has for its answer."""


def create_app(
    catalog: Catalog,
    keys: Keys,
    *,
    timeout: float = 60.0,
    body_bytes: int = 2**20,
    refresh: float = 5.0,
) -> FastAPI:
    """The ASGI application.

    Args:
      keys: who may ask; without any everybody may.
      body_bytes: of a request at most.
      refresh: seconds between two looks at the store; 0 never looks.
    """
    backbone = catalog.engine.backbone
    if backbone.tokenizer is None:
        raise InputError(
            f"backbone {backbone.name!r} has no tokenizer, and requests bring texts; put the "
            "tokenizer's files into its folder"
        )

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_revive(app))]
        tasks += [asyncio.create_task(_refresh(catalog, refresh))] if refresh else []
        yield
        for task in tasks:
            task.cancel()

    app = FastAPI(
        title="prompt_jax", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.router.route_class = Guarded
    metrics = Metrics(catalog.engine)
    app.state.keys, app.state.catalog, app.state.metrics = keys, catalog, metrics
    app.state.responses = Responses(catalog, metrics, timeout)
    app.state.ready = True
    for kind in (*(kind for kind, _, _ in errors.KINDS), Refused, Exception):
        app.add_exception_handler(kind, errors.on_error)
    app.add_exception_handler(RequestValidationError, errors.on_invalid)
    app.add_exception_handler(HTTPException, errors.on_http)
    app.add_middleware(Gate, metrics=metrics, limit=body_bytes, patience=timeout + SLACK)
    _add_health(app)
    add_openai(app)
    add_responses(app)
    add_native(app)
    add_prompts(app)
    add_page(app)
    return app


async def _revive(app: FastAPI) -> None:
    """Gives an engine that came to an end by itself a new start; not ready until it is warm."""
    engine = app.state.catalog.engine
    while True:
        await asyncio.sleep(1.0)
        if engine.failed:
            app.state.ready = False
            LOG.error("the engine came to an end by itself and begins again")
            try:
                engine.restart()
                # Compiling takes long, and /livez has to be answered meanwhile.
                await asyncio.to_thread(engine.warm_up)
                app.state.ready = True
            except Exception:  # Not ready until it does.
                LOG.exception("the engine does not begin again")


async def _refresh(catalog: Catalog, every: float) -> None:
    """Finds what others put into the store; what cannot be served is logged once."""
    logged: set[str] = set()
    while True:
        await asyncio.sleep(every)
        try:
            problems = await asyncio.to_thread(catalog.refresh)
        except OSError as error:  # A disk may come back; what is served stays.
            problems = [f"the store cannot be read: {error}"]
        for problem in set(problems) - logged:
            LOG.warning("not served: %s", problem)
        logged = set(problems)


def _add_health(app: FastAPI) -> None:
    @app.get("/livez")
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("ok")

    async def readyz(request: Request) -> PlainTextResponse:
        state = request.app.state
        if state.ready and state.catalog.engine.alive:
            return PlainTextResponse("ok")
        return PlainTextResponse("not ready", 503)

    app.get("/readyz")(readyz)
    app.get("/health")(readyz)

    @app.get("/metrics")
    async def metrics(request: Request) -> PlainTextResponse:
        return PlainTextResponse(
            request.app.state.metrics.text(), media_type="text/plain; version=0.0.4"
        )

    @app.get("/openapi.json")
    async def openapi(request: Request) -> JSONResponse:
        return JSONResponse(request.app.openapi())
