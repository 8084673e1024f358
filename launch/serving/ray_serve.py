"""Replicas of `prompt-jax serve` behind one address, on a Ray cluster.

    pip install "prompt-jax[serve,ray]"
    python launch/serving/ray_serve.py --replicas 4 --gpus 1 \
        --backbone google/t5-v1_1-base --store /shared/prompts --keys /shared/keys.json

Every flag that is not of this file is of `prompt-jax serve`. Each replica is a server with an
engine of its own; all read one store, at the same path on every machine. A prompt's requests go to
one replica first, by consistent hashing of its name, so that few replicas hold its slot and who
publishes a prompt finds it at once; where that replica is busy or gone they go to the next. A
replica that ends is begun again, and a request that it had not begun to answer goes to another.

Checked: two replicas on one machine, one of them killed (tests/test_ray_serve.py). Not run: no
cluster was at hand.
"""

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import httpx
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

LARGEST = 2**28
"""Bytes of a body at most; a server takes fewer, see its --upload-mib."""
TRIES, PAUSE = 4, 0.5
"""How often a request is handed on at most, and the seconds in between: in these all learn who is
gone."""
HOPS = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer"}
"""Headers that are about a connection and not about a request."""
DEADLINES = dict.fromkeys(
    (
        "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S",
        "RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S",
    ),
    "2",
)
"""Seconds in which a replica says how many requests it has. Ray's own 0.1 sends a prompt's requests
to another replica where a busy machine is late."""
FIELDS = ("model", "lora_name", "prompts")
"""Of a body, that name prompts."""
PATH = re.compile(r"/v1/(?:prompts|models)/(?P<name>[^/]+)")


class Inbound(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    """With its query."""
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Head(NamedTuple):
    """How a response begins; its bytes follow."""

    status: int
    headers: list[tuple[bytes, bytes]]


def prompt_name(path: str, body: bytes) -> str:
    """The name of the prompt that a request is about, without its version; empty of none."""
    if match := PATH.match(path):
        return _unversioned(match["name"])
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):  # The server says what is wrong with it.
        return ""
    places = [fields, fields.get("compose")] if isinstance(fields, dict) else []
    for place in places:
        for field in FIELDS if isinstance(place, dict) else ():
            name = place.get(field)
            name = name[0] if isinstance(name, list) and name else name
            if name and isinstance(name, str):
                return _unversioned(name)
    return ""


def _unversioned(name: str) -> str:
    """`films` of `embedded:films@2`."""
    return name.partition("@")[0].rpartition(":")[2]


class Replica:
    """A server of its own on this machine, which ends with this process, as this one does with it.

    Args:
      flags: of `prompt-jax serve`.
    """

    def __init__(self, flags: Sequence[str]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "prompt_jax", "serve", *flags]
        command += ["--host=127.0.0.1", f"--port={port}"]
        self._server = subprocess.Popen(command, preexec_fn=_end_with_parent)
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None)
        while not _is_ready(f"http://127.0.0.1:{port}/readyz"):
            if self._server.poll() is not None:
                raise RuntimeError(f"prompt-jax serve ended with {self._server.returncode}")
            time.sleep(0.2)
        # Ray begins another replica where a process ends, and sends on what waited for this one.
        threading.Thread(target=lambda: os._exit(self._server.wait() or 1), daemon=True).start()

    async def answer(self, inbound: Inbound) -> AsyncIterator[Head | bytes]:
        """The server's response: how it begins, then its bytes as they come."""
        method, path, headers, body = inbound
        request = self._client.build_request(method, path, headers=headers, content=body)
        response = await self._client.send(request, stream=True)
        try:
            yield Head(response.status_code, end_to_end(response.headers.raw))
            async for part in response.aiter_raw():
                yield part
        finally:  # Also where the client left: the server then ends what it writes for nobody.
            await response.aclose()

    async def check_health(self) -> None:
        """Told to Ray, which begins a replica again that hangs."""
        (await self._client.get("/livez", timeout=10)).raise_for_status()


class Front:
    """Takes requests and hands each to the replica of its prompt."""

    def __init__(self, replicas: DeploymentHandle):
        self._replicas = replicas

    async def __call__(self, request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LARGEST:
                return _failure(413, f"a request has {LARGEST} bytes at most")
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        inbound = Inbound(request.method, path, end_to_end(request.headers.raw), bytes(body))
        name = prompt_name(request.url.path, inbound.body)
        replica = self._replicas.options(stream=True, session_id=name).answer
        for further in reversed(range(TRIES)):
            parts = replica.remote(inbound)
            try:
                head: Head = await anext(parts)
            except RayError:
                # Of a change nobody knows whether it was made.
                if further and inbound.method not in ("PUT", "DELETE"):
                    await asyncio.sleep(PAUSE)
                    continue
                return _failure(503, "the replica ended before it answered; ask again")
            response = StreamingResponse(parts, head.status)
            response.raw_headers = head.headers
            return response
        raise AssertionError("the last try returns")


def _is_ready(address: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(address, timeout=60).status_code == 200
    return False


def end_to_end(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that a proxy hands on."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in HOPS]


def _failure(status: int, message: str) -> Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    headers = {"Retry-After": "1"} if status == 503 else {}
    return JSONResponse({"error": error}, status, headers)


def _end_with_parent() -> None:
    """Runs in the server before it begins: Linux ends it where its parent is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG.


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=2, help="servers, each with an engine")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    parser.add_argument("--cpus", type=float, default=1, help="of a replica")
    parser.add_argument("--gpus", type=float, default=0, help="of a replica")
    parser.add_argument("--at-once", type=int, default=256, help="requests of a replica")
    options, flags = parser.parse_known_args(arguments)
    if options.replicas < 1:
        parser.error(f"--replicas is at least 1, got {options.replicas}")
    local = options.host in ("127.0.0.1", "::1", "localhost")
    if not local and not any(flag.partition("=")[0] == "--keys" for flag in flags):
        parser.error(
            f"{options.host} can be reached by others and there are no keys; give --keys FILE"
        )
    ray.init(include_dashboard=False)
    serve.start(http_options={"host": options.host, "port": options.port})
    engines = serve.deployment(
        Replica,
        num_replicas=options.replicas,
        max_ongoing_requests=options.at_once,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        request_router_config={
            "request_router_class": "ray.serve.experimental.consistent_hash_router."
            "ConsistentHashRouter"
        },
        health_check_timeout_s=15,
        graceful_shutdown_timeout_s=90,
    )
    front = serve.deployment(
        Front,
        max_ongoing_requests=options.replicas * options.at_once,
        ray_actor_options={"num_cpus": 0.1, "runtime_env": {"env_vars": DEADLINES}},
    )
    serve.run(front.bind(engines.bind(flags)), name="prompt-jax")
    print(f"ready on http://{options.host}:{options.port}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    serve.shutdown()


if __name__ == "__main__":
    main()
