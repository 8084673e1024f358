"""A server on loopback with keys, for tests that speak to it over HTTP."""

import contextlib
import hashlib
import threading
import time

import jax
import numpy as np
from fastapi import FastAPI

from prompt_jax.methods import init
from prompt_jax.prompts import prompt_for
from prompt_jax.serve.http import Keys
from prompt_jax.serve.http.keys import Key
from prompt_jax.serve.http.run import server_of


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


KEYS = Keys((
    Key("user", digest("user"), ("infer",)),
    Key("tenant", digest("tenant"), ("infer",), ("films*",)),
    Key("admin", digest("admin"), ("infer", "admin")),
))  # fmt: skip
SIZES = {"rows": (4,), "lengths": (32,), "max_new_tokens": 16, "places": 4}
USER, ADMIN = {"Authorization": "Bearer user"}, {"Authorization": "Bearer admin"}


def prompt_of(backbone, method, seed):
    """A prompt that says something of its own."""
    tuned = init(method, backbone, jax.random.key(seed))
    tuned = jax.tree.map(
        lambda leaf: leaf + np.random.default_rng(seed).normal(size=leaf.shape), tuned
    )
    return prompt_for(tuned, method, backbone, name=f"p{seed}")


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
