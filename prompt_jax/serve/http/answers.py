"""Errors as OpenAI's clients read them."""

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from prompt_jax.config import InputError
from prompt_jax.disk import DiskFullError
from prompt_jax.serve.catalog import ChangedError
from prompt_jax.serve.errors import (
    DeadlineError,
    EngineError,
    PoisonedPromptError,
    QueueFullError,
    UnknownPromptError,
)

KINDS: tuple[tuple[type[Exception], int, str], ...] = (
    (UnknownPromptError, 404, "model_not_found"),
    (PoisonedPromptError, 409, "prompt_poisoned"),
    (ChangedError, 412, "changed"),
    (QueueFullError, 429, "overloaded"),
    (DeadlineError, 504, "deadline"),
    (EngineError, 503, "unavailable"),
    (DiskFullError, 507, "storage_full"),
    (InputError, 400, "invalid_request"),
)
"""Status and code of an error, the first that fits."""
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class Refused(Exception):
    """A request that is not even looked into."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def body_of(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """An OpenAI error object."""
    usual = "invalid_request_error" if status < 500 else "server_error"
    kind = TYPES.get(status, "rate_limit_error" if status == 429 else usual)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body of what went wrong; of what nobody foresaw no detail is told."""
    if isinstance(error, Refused):
        return error.status, body_of(error.status, error.code, str(error), error.param)
    for kind, status, code in KINDS:
        if isinstance(error, kind):
            return status, body_of(status, code, str(error))
    return 500, body_of(500, "internal", "the server made a mistake; its log has it")


def respond(error: Exception) -> JSONResponse:
    """The response of an error."""
    status, body = error_of(error)
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    headers |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(body, status, headers)


async def on_error(_: Request, error: Exception) -> JSONResponse:
    """Of ours."""
    return respond(error)


async def on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """Of a body that has not the fields of its route."""
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"] if part != "body")
    message = f"{param or 'the body'}: {first['msg']}"
    return JSONResponse(body_of(400, "invalid_request", message, param or None), 400)


async def on_http(_: Request, error: HTTPException) -> JSONResponse:
    """Of routing: no such path, no such method."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http")
    return JSONResponse(
        body_of(error.status_code, code, str(error.detail)), error.status_code, error.headers
    )
