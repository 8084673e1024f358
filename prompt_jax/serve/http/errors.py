"""Errors as OpenAI's clients read them."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from prompt_jax.config import InputError
from prompt_jax.disk import DiskFullError, InUseError, UnwritableError
from prompt_jax.serve.errors import (
    ChangedError,
    DeadlineError,
    EngineError,
    PoisonedPromptError,
    QueueFullError,
    StoreError,
    UnknownPromptError,
)
from prompt_jax.serve.http.logs import trace

LOG = logging.getLogger(__name__)

JSON: TypeAlias = dict[str, object]
"""A JSON object."""
KINDS: tuple[tuple[type[Exception], int, str], ...] = (
    (UnknownPromptError, 404, "model_not_found"),
    (PoisonedPromptError, 409, "prompt_poisoned"),
    (ChangedError, 412, "changed"),
    (QueueFullError, 429, "overloaded"),
    (DeadlineError, 504, "deadline"),
    (EngineError, 503, "unavailable"),
    (DiskFullError, 507, "storage_full"),
    (UnwritableError, 503, "storage_unavailable"),
    (InUseError, 503, "storage_unavailable"),
    (StoreError, 503, "storage_unavailable"),
    (InputError, 400, "invalid_request"),
)
"""Status and code of an error, the first that fits."""
LATE = 0.5
"""Seconds that the engine has for ending a late request, before its route does."""
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class Refused(Exception):
    """A request that is answered with an error before it comes to the engine."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: int = 1
    ):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.retry_after = retry_after


def body_of(status: int, code: str, message: str, param: str | None = None) -> dict[str, JSON]:
    """An OpenAI error object, with the id by which the log has the request."""
    usual = "invalid_request_error" if status < 500 else "server_error"
    kind = TYPES.get(status, "rate_limit_error" if status == 429 else usual)
    error: JSON = {"message": message, "type": kind, "param": param, "code": code}
    return {"error": error | ({"request_id": trace().id} if trace().id else {})}


def error_of(error: Exception) -> tuple[int, dict[str, JSON]]:
    """Status and body of an error; one that nobody foresaw stays without details."""
    if isinstance(error, Refused):
        return error.status, body_of(error.status, error.code, str(error), error.param)
    if isinstance(error, HTTPException):  # A path or a method that no route has.
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http")
        return error.status_code, body_of(error.status_code, code, str(error.detail))
    # Without the names that there are: they may be those of others.
    message = error.problem if isinstance(error, UnknownPromptError) else str(error)
    if isinstance(error, UnwritableError):  # Where the server keeps its files is nobody's business.
        message = f"the server cannot write it: {error.reason}"
    if isinstance(error, EngineError):  # What a device says of itself is the operator's.
        LOG.error("no answer: %s", error)
        message = "the engine could not answer; ask again, and tell the operator this request_id"
    for kind, status, code in KINDS:
        if isinstance(error, kind):
            return status, body_of(status, code, message)
    LOG.error("an error that nobody foresaw", exc_info=error)
    return 500, body_of(500, "internal", "the server made a mistake; its log has it")


def broken_off(error: Exception) -> JSON:
    """The object of an error in the middle of a stream, whose status has been sent already.

    The log and the numbers have the status that the error would have had.
    """
    trace().broken, body = error_of(error)
    return body["error"]


def late(timeout: float) -> DeadlineError:
    """The error of a request that the engine has not ended in time, as while its device hangs."""
    return DeadlineError(f"no answer within {timeout:g} s; ask again later")


def invalid(param: str, message: str) -> Refused:
    """A field that the request cannot have so."""
    return Refused(400, "invalid_request", f"{param}: {message}", param)


def response_to(error: Exception) -> JSONResponse:
    """The response to an error, with the headers that its status asks for."""
    status, body = error_of(error)
    seconds = error.retry_after if isinstance(error, Refused) else 1
    headers = {"Retry-After": str(seconds)} if status in (429, 503) else {}
    headers |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    headers |= (error.headers or {}) if isinstance(error, HTTPException) else {}
    return JSONResponse(body, status, headers)


def refusal_of(problems: Sequence[Mapping[str, Any]]) -> Refused:
    """The error of a request that has not the fields of its route.

    Args:
      problems: as pydantic lists them.
    """
    # A value that may be of several types has an error for each, whose places begin alike.
    alike = os.path.commonprefix([problem["loc"] for problem in problems])
    if not alike:  # Errors of several fields: the first one is enough.
        problems, alike = problems[:1], problems[0]["loc"]
    place = [str(part) for part in alike]
    if problems[0]["type"] == "unsupported":
        param = ".".join([*place, problems[0]["ctx"]["field"]])
        return Refused(400, "unsupported", problems[0]["msg"], param)
    param = ".".join(place)
    reasons = dict.fromkeys(reason_of(problem) for problem in problems)
    message = f"{param or 'the body'}: {' or: '.join(reasons)}"
    return Refused(400, "invalid_request", message, param or None)


def reason_of(problem: Mapping[str, Any]) -> str:
    """What is wrong with a field, of what pydantic says."""
    if problem["type"] == "too_long":
        return f"there may be {problem['ctx']['max_length']}, got {problem['ctx']['actual_length']}"
    return problem["msg"]
