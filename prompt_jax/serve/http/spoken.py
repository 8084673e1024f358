"""Responses of OpenAI's shape, whole or streamed."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi.responses import StreamingResponse

from prompt_jax.serve.catalog import Served
from prompt_jax.serve.http import answers, schemas
from prompt_jax.serve.http.answers import Refused
from prompt_jax.serve.http.desk import TEXTS, Asked, Desk, invalid, refuse_unsupported
from prompt_jax.serve.words import Piece


async def respond(
    desk: Desk, body: schemas.Sampling, wanted: Sequence[tuple[Served | None, str]], kind: str
) -> Any:
    """A response of OpenAI's shape, whole or streamed."""
    refuse_unsupported(body)
    if len(wanted) * body.n > TEXTS:
        raise Refused(400, "too_many", f"a request has at most {TEXTS} answers", "n")
    if body.n > 1 and not body.temperature:
        raise invalid("n", "above 1 it needs a temperature above 0")
    asked = [await desk.asked(served, text) for served, text in wanted]
    rows = [(each, body.seed + i) for each in asked for i in range(body.n)]
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        **desk.about(wanted[0][0]),
    }
    if body.stream:
        stream = streamed(desk, body, rows, head, kind)
        first = await anext(stream)  # What is refused at once is refused with a status.
        return StreamingResponse(
            prefixed(first, stream),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )
    tasks = [asyncio.ensure_future(desk.whole(each, body, seed)) for each, seed in rows]
    try:
        found = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    choices = [choice(i, said, last, body, kind) for i, (said, last) in enumerate(found)]
    used = usage(asked, sum(len(last.tokens) for _, last in found))
    count(desk, kind, head, len(found), used)
    return {**head, "object": kind, "choices": choices, "usage": used}


def count(desk: Desk, kind: str, head: dict[str, Any], rows: int, used: dict[str, int]) -> None:
    """Counts answers once all are written, and their tokens."""
    read, written = used["prompt_tokens"], used["completion_tokens"]
    desk.count(kind, head["model"], rows, read=read, written=written)


def usage(asked: Sequence[Asked], written: int) -> dict[str, int]:
    """Tokens of texts and of answers; virtual ones are not counted."""
    read = sum(len(each.tokens) for each in asked)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def choice(index: int, said: str, last: Piece, body: schemas.Sampling, kind: str) -> dict[str, Any]:
    """An answer."""
    words = {"text": said}
    if kind == "chat.completion":
        words = {"message": {"role": "assistant", "content": said}}
    log_probs = None
    if body.logprobs:
        log_probs = {"token_logprobs": last.log_probs, "token_ids": last.tokens}
    return {"index": index, **words, "finish_reason": last.finish, "logprobs": log_probs}


async def streamed(
    desk: Desk,
    body: schemas.Sampling,
    rows: Sequence[tuple[Asked, int]],
    head: dict[str, Any],
    kind: str,
) -> AsyncIterator[str]:
    """Server-sent events of all answers as they are written."""
    chunk = f"{kind}.chunk" if kind == "chat.completion" else kind
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def run(index: int, each: Asked, seed: int) -> None:
        try:
            async for piece in desk.pieces(each, body, seed):
                await queue.put((index, piece))
        except Exception as error:  # Told to whoever listens, in the stream.
            await queue.put((index, error))

    tasks = [asyncio.ensure_future(run(i, each, seed)) for i, (each, seed) in enumerate(rows)]
    left, written, began = len(rows), 0, time.monotonic()
    try:
        while left:
            index, piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            if began:
                desk.metrics.first.observe(time.monotonic() - began)
                began = 0.0
            words: dict[str, Any] = {"text": piece.text}
            if kind == "chat.completion":
                words = {"delta": {"role": "assistant", "content": piece.text}}
            own = {"index": index, **words, "finish_reason": piece.finish, "logprobs": None}
            yield event({**head, "object": chunk, "choices": [own]})
            if piece.finish is not None:
                left, written = left - 1, written + len(piece.tokens)
        used = usage([each for each, _ in rows[:: body.n]], written)
        count(desk, kind, head, len(rows), used)
        if (body.stream_options or {}).get("include_usage"):
            yield event({**head, "object": chunk, "choices": [], "usage": used})
        yield "data: [DONE]\n\n"
    finally:
        for task in tasks:
            task.cancel()


async def prefixed(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    """A stream whose first event is there; an error in it is its last event."""
    yield first
    try:
        async for each in rest:
            yield each
    except Exception as error:  # The status is gone; the stream has the error.
        yield event(answers.error_of(error)[1])


def event(body: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
