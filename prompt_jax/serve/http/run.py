"""A server from start to end: ready once it is warm, and gone once what it took is answered."""

import ipaddress
from typing import TYPE_CHECKING, TypeAlias

from starlette.types import ASGIApp

from prompt_jax.config import InputError
from prompt_jax.serve.http.keys import Keys

if TYPE_CHECKING:
    from uvicorn import Server
else:  # uvicorn is imported where a server begins.
    Server: TypeAlias = object


def is_loopback(host: str) -> bool:
    """Whether a name or an address is that of this machine for itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_open(host: str, keys: Keys) -> None:
    """Checks that a server without keys is for its own machine alone."""
    if not keys and not is_loopback(host):
        raise InputError(
            f"a server on {host} can be reached by others and has no keys; give --keys FILE, or "
            "--host 127.0.0.1"
        )


def server_of(app: ASGIApp, host: str, port: int) -> Server:
    """A uvicorn server that drains on SIGTERM: what is being answered is answered to its end."""
    import uvicorn

    from prompt_jax.serve.http.connections import CONNECTIONS, Connection

    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_keep_alive=30, server_header=False,
        timeout_graceful_shutdown=60, h11_max_incomplete_event_size=2**16, access_log=False,
        http=Connection, limit_concurrency=CONNECTIONS, ws="none", lifespan="on", log_config=None,
    )  # fmt: skip
    return uvicorn.Server(config)
