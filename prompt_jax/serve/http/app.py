"""The application: routes over a catalog, behind keys and limits."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from prompt_jax.config import InputError
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.http.auth import Door
from prompt_jax.serve.http.gate import Gate
from prompt_jax.serve.http.keys import Keys
from prompt_jax.serve.http.metrics import Metrics
from prompt_jax.serve.http.native import add_native
from prompt_jax.serve.http.openai import add_openai
from prompt_jax.serve.http.openai_responses import add_responses
from prompt_jax.serve.http.page import add_page
from prompt_jax.serve.http.prompts import add_prompts
from prompt_jax.serve.http.responses import Responses
from prompt_jax.serve.http.routes import Application, Guarded
from prompt_jax.serve.http.run import SLACK
from prompt_jax.serve.http.shapes import answers
from prompt_jax.serve.http.traces import Traces

LOG = logging.getLogger(__name__)
UPLOAD = 64 * 2**20
"""Bytes: a prompt of 100 tokens for T5-XXL has 1.6 MB, a LoRA of a 7B 10 to 30 MB."""
DEAD = 5
"""Times `timeout` that a batch may take before the server asks to be started again."""


def create_app(
    catalog: Catalog,
    keys: Keys,
    *,
    hosts: Sequence[str] = (),
    timeout: float = 60.0,
    upload_bytes: int = UPLOAD,
    refresh: float = 5.0,
    on_ready: Callable[[], None] | None = None,
    traces: Traces | None = None,
) -> Application:
    """The ASGI application.

    Args:
      keys: who may ask; without any everybody may who asks this machine itself.
      hosts: names that a request may be sent to, beside localhost and addresses of loopback. With
        keys none stands for all names.
      timeout: seconds until a request that has no answer gets 504.
      upload_bytes: of an uploaded prompt at most.
      refresh: seconds between two looks at the store and at the keys; 0 never looks.
      on_ready: called once the engine is warm, for which the server then sees and until which it
        is not ready; None takes the engine as it is.
      traces: what writes traces for OpenTelemetry; None writes none.
    """
    backbone = catalog.engine.backbone
    if backbone.tokenizer is None:
        raise InputError(
            f"backbone {backbone.name!r} has no tokenizer, and requests bring texts; put the "
            "tokenizer's files into its folder"
        )

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_keep_warm(app, on_ready or (lambda: None)))]
        looks = {
            "not served": catalog.refresh, "prompts stay as they were": catalog.losses,
            "keys stay as they were": keys.refresh,
        }  # fmt: skip
        for problem, look in looks.items() if refresh else ():
            tasks.append(asyncio.create_task(_watch(look, problem, refresh)))
        yield
        for task in tasks:
            task.cancel()

    # A path with one slash more is another path, and no key is sent on to it.
    app = Application(
        title="prompt_jax", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.router.route_class = Guarded
    metrics = Metrics(catalog)
    if traces is not None:
        traces.watch(catalog.engine)
    # Of the catalog no more than a key's own view of it comes to a route.
    app.state.door, app.state.engine, app.state.metrics = (
        Door(keys, catalog), catalog.engine, metrics,
    )  # fmt: skip
    app.state.responses = Responses(catalog.engine, catalog.base, metrics, timeout)
    # Not ready before it is warm, and not when it is told to leave, which ends it in a while.
    app.state.ready, app.state.leaving = on_ready is None, False
    app.add_middleware(
        Gate, metrics=metrics, hosts=None if keys and not hosts else hosts, upload=upload_bytes,
        patience=timeout + SLACK, traces=traces,
    )  # fmt: skip
    _add_health(app, catalog, timeout)
    add_openai(app)
    add_responses(app)
    add_native(app)
    add_prompts(app)
    add_page(app)
    app.check_routes()
    return app


async def _keep_warm(app: FastAPI, on_ready: Callable[[], None]) -> None:
    """Warms up the engine, and again after it came to an end by itself and began anew."""
    engine: Engine = app.state.engine
    while True:
        if engine.failed:
            app.state.ready = False
            LOG.error("the engine came to an end by itself and begins again")
        if not app.state.ready:
            try:
                if engine.failed:
                    engine.restart()
                # Futures, since a thread that waits could not be told that the server ends.
                await asyncio.gather(*map(asyncio.wrap_future, engine.prepare()))
                await asyncio.to_thread(engine.warm_up)
                app.state.ready = True
                on_ready()
            except Exception:  # Not ready until it does.
                LOG.exception("the engine is not warm")
        await asyncio.sleep(1.0)


async def _watch(look: Callable[[], list[str]], heading: str, every: float) -> None:
    """Looks for what others have changed on disk; what cannot be used is logged once.

    Args:
      heading: what comes before a problem in the log.
    """
    logged: set[str] = set()
    while True:
        await asyncio.sleep(every)
        try:
            problems = await asyncio.to_thread(look)
        except OSError as error:  # A disk may come back; what is served stays.
            problems = [f"it cannot be read: {error}"]
        except Exception:  # An engine that begins again, perhaps. Nobody else would look.
            LOG.exception("%s: the look at it failed", heading)
            continue
        for problem in set(problems) - logged:
            LOG.warning("%s: %s", heading, problem)
        logged = set(problems)


def _add_health(app: FastAPI, catalog: Catalog, timeout: float) -> None:
    def hung(times: int) -> PlainTextResponse | None:
        """The answer while the device is at one batch for longer than so many timeouts."""
        seconds = catalog.engine.stats.under_way
        if seconds <= times * timeout:
            return None
        return PlainTextResponse(f"the device has been at one batch for {seconds:.0f} s", 503)

    @app.get("/livez", **answers(str))
    async def livez() -> PlainTextResponse:
        # A new start may find the device again; nothing in the process can.
        return hung(DEAD) or PlainTextResponse("ok")

    async def readyz(request: Request) -> PlainTextResponse:
        state = request.app.state
        if state.leaving or not (state.ready and state.engine.alive):
            return PlainTextResponse("not ready", 503)
        if problem := hung(1):
            return problem
        # Still 200: without a disk that all servers share, none would be left to answer.
        lost = catalog.lost
        return PlainTextResponse(f"ok, but {lost}; what it had is served on" if lost else "ok")

    app.get("/readyz", **answers(str))(readyz)
    app.get("/health", **answers(str))(readyz)

    @app.get("/metrics", **answers(str))
    async def metrics(request: Request) -> PlainTextResponse:
        return PlainTextResponse(
            request.app.state.metrics.text(), media_type="text/plain; version=0.0.4"
        )

    @app.get("/openapi.json")
    async def openapi(request: Request) -> JSONResponse:
        return JSONResponse(request.app.openapi())
