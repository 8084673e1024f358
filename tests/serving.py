"""A server on loopback with keys, for tests that speak to it over HTTP."""

import asyncio
import contextlib
import hashlib
import threading
import time
from datetime import date
from typing import NamedTuple

import engines
import httpx
from fastapi import FastAPI

from prompt_jax.backbones import Backbone
from prompt_jax.methods import LoraConfig, PromptTuningConfig
from prompt_jax.serve import Engine, Store
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.http import Keys, create_app
from prompt_jax.serve.http.keys import SCOPES, Key
from prompt_jax.serve.http.run import server_of


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


HOLDERS = (
    Key("user", digest("user")),
    Key("tenant", digest("tenant"), ("infer",), ("films*",)),
    Key("team", digest("team"), ("infer", "admin"), ("films*",)),
    Key("operator", digest("operator"), ("admin",)),
    Key("prometheus", digest("prometheus"), ("metrics",)),
    Key("admin", digest("admin"), SCOPES),
    Key("former", digest("former"), SCOPES, expires=date(2026, 1, 31)),
)  # fmt: skip
"""Keys whose secret is their name."""
KEYS = Keys(HOLDERS)
SIZES = {"rows": (4,), "lengths": (32,), "max_new_tokens": 16, "places": 4}
ASKED = {"model": "films", "input": "a fine film", "labels": ["good", "bad"]}
"""Of /v1/classify."""
USER, ADMIN = {"Authorization": "Bearer user"}, {"Authorization": "Bearer admin"}


def prompt_of(backbone, method, seed):
    """A prompt whose answers differ from those of others."""
    return engines.prompt_of(backbone, method, seed, scale=1.0)


@contextlib.contextmanager
def serving(app: FastAPI):
    """The address of an application that listens."""
    server = server_of(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def asking(app: FastAPI):
    """Posts to an application without a socket, with the key of a user."""

    async def post(route, body):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as user:
            return await user.post(f"/v1/{route}", json=body, headers=USER)

    return lambda route, **body: asyncio.run(post(route, body))


def until(condition, seconds=30.0):
    """Waits for something to become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never became so"
        time.sleep(0.01)


@contextlib.contextmanager
def open_catalog(backbone, folder, names=("films", "satire"), versions=2, **sizes):
    """A catalog of films@1, films@2, satire@1 and satire@2, and an engine of its own."""
    store = Store(folder)
    for seed in range(1, versions + 1):
        prompt = prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=3), seed)
        for name in names:
            store.put(name, prompt)
    room = [PromptTuningConfig(num_virtual_tokens=8)]
    with Engine(backbone, room=room, **SIZES, **sizes) as engine:
        catalog = Catalog(engine, store)
        assert catalog.refresh() == []
        yield catalog


class Served(NamedTuple):
    """A server with keys: films@1, films@2 and satire@1; and its engine, with p0 to p7 beside."""

    address: str
    catalog: Catalog
    backbone: Backbone


@contextlib.contextmanager
def open_server(backbone, folder):
    """One server for all tests that need none of their own."""
    store = Store(folder)
    store.put("films", prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=3), 1))
    store.put("films", prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=5), 2))
    store.put("satire", prompt_of(backbone, LoraConfig(r=2), 3))
    methods = [PromptTuningConfig(num_virtual_tokens=n) for n in (1, 3, 5)] + [LoraConfig(r=2)]
    prompts = {f"p{i}": prompt_of(backbone, methods[i % 4], i) for i in range(8)}
    room = [PromptTuningConfig(num_virtual_tokens=8), LoraConfig(r=2)]
    sizes = {**SIZES, "rows": (8,), "window": 0.02}
    with Engine(backbone, prompts, room=room, **sizes) as engine:
        catalog = Catalog(engine, store)
        problems = catalog.refresh()
        assert problems == [], problems
        with serving(create_app(catalog, KEYS)) as address:
            yield Served(address, catalog, backbone)
