"""The log of a server: a line a request, a line a change of its prompts, and what went wrong.

Every line of a request has its id, which its client got in `X-Request-ID`; no line has a text, an
answer or a key.
"""

import contextlib
import dataclasses
import json
import logging
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from starlette.datastructures import Headers

from prompt_jax.serve.requests import CALLER, Caller

if TYPE_CHECKING:
    from opentelemetry.trace import Span
else:  # Only the extra `otel` has it.
    Span = object

ACCESS = logging.getLogger("prompt_jax.access")
"""A line a request; those of probes have the level `debug`."""
HEADER = "x-request-id"
ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
PLAIN = re.compile(r"[\w@.,:/(){}*+-]+")
"""Values that a line of text shows without quotes."""
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
Field: TypeAlias = str | int | float


@dataclasses.dataclass(eq=False)
class Trace(Caller):
    """What is known of a request while it is answered."""

    id: str = ""
    prompts: dict[str, str] = dataclasses.field(default_factory=dict)
    """The version of each prompt that it named, such as films@2 -> the prompt's name."""
    broken: int = 0
    """The status of the error that ended its stream; 0 of all others."""
    span: Span | None = None
    """Its span, where OpenTelemetry is asked for."""


def trace() -> Trace:
    """That of the request under way; an empty one outside of a request."""
    caller = CALLER.get()
    return caller if isinstance(caller, Trace) else Trace()


@contextlib.contextmanager
def tracing(headers: Headers) -> Iterator[Trace]:
    """A request, from its headers to its last byte, under the id that its client or proxy gave."""
    chosen = headers.get(HEADER, "")
    request = Trace(id=chosen if ID.fullmatch(chosen) else uuid.uuid4().hex)
    token = CALLER.set(request)
    try:
        yield request
    finally:
        CALLER.reset(token)


def write_log(level: LogLevel, *, as_json: bool) -> None:
    """Writes the lines of this package from a level on, and warnings of others, to stderr."""
    lines = logging.StreamHandler()
    lines.setFormatter(JSONLines() if as_json else TextLines())
    logging.basicConfig(handlers=[lines], level=logging.WARNING, force=True)
    logging.getLogger("prompt_jax").setLevel(level.upper())


class TextLines(logging.Formatter):
    """`2026-11-29T11:40:01.123Z INFO prompt_jax.access: POST /v1/classify status=200 ...`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; a traceback follows on lines of its own."""
        shown = (f"{name}={_shown(value)}" for name, value in fields_of(record).items())
        # Whatever a client wrote, one record begins one line.
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        start = f"{time_of(record)} {record.levelname} {record.name}: {message}"
        line, traceback = " ".join([start, *shown]), traceback_of(self, record)
        return f"{line}\n{traceback}" if traceback else line


class JSONLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line = {
            "time": time_of(record), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(), **fields_of(record),
        }  # fmt: skip
        if traceback := traceback_of(self, record):
            line["traceback"] = traceback
        return json.dumps(line, ensure_ascii=False)


def fields_of(record: logging.LogRecord) -> dict[str, Field]:
    """What a record has beside its message: `extra={"fields": {...}}`, and whose request it is."""
    request = trace()
    about = {"key": request.key, "request_id": request.id}
    if request.span is not None:
        about["trace_id"] = format(request.span.get_span_context().trace_id, "032x")
    return {**getattr(record, "fields", {}), **{name: v for name, v in about.items() if v}}


def time_of(record: logging.LogRecord) -> str:
    """When it was, in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def traceback_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback of what went wrong; empty where nothing did."""
    return formatter.formatException(record.exc_info) if record.exc_info else ""


def _shown(value: Field) -> str:
    return str(value) if PLAIN.fullmatch(str(value)) else json.dumps(value, ensure_ascii=False)
