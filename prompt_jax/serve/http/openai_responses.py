"""OpenAI's newer route, `/v1/responses`: an answer to an input; the server keeps neither."""

import time
import uuid
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from prompt_jax.serve.http import schemas, shapes
from prompt_jax.serve.http.errors import broken_off
from prompt_jax.serve.http.openai import messages_in
from prompt_jax.serve.http.responses import Responses
from prompt_jax.serve.http.shapes import answers
from prompt_jax.serve.http.writing import Writer, event, inputs_of, streaming
from prompt_jax.serve.prompts import PLAIN, Served
from prompt_jax.serve.streaming import Piece


def add_responses(app: FastAPI) -> None:
    """Adds the route to an application that has `state.responses`."""
    responses: Responses = app.state.responses

    @app.post("/v1/responses", **answers(shapes.Response, streams=True))
    async def respond(
        request: Request, body: schemas.ResponseRequest
    ) -> shapes.Response | StreamingResponse:
        served = await responses.served(request.state.view, body)
        tokenizer = responses.engine.backbone.tokenizer
        text = (served or PLAIN).conversation(messages_in(body.messages), tokenizer)
        sampling = body.sampling
        inputs = await inputs_of(responses, sampling, [(served, text)])
        writer, head = Writer(responses, sampling, inputs), _head(responses, served, body)
        if body.stream:
            return await streaming(_events(writer, head))
        (piece,) = await writer.whole()
        return _finished(writer, head, piece)


def _head(
    responses: Responses, served: Served | None, body: schemas.ResponseRequest
) -> shapes.Response:
    """A response before there is an answer."""
    return {
        "id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time()),
        "status": "in_progress", "error": None, "incomplete_details": None,
        "instructions": body.instructions, "max_output_tokens": body.max_output_tokens,
        "metadata": {}, "output": [], "parallel_tool_calls": False, "previous_response_id": None,
        "temperature": body.temperature, "tool_choice": "none", "tools": [],
        "top_p": body.top_p, "usage": None, **responses.identity(served),
    }  # fmt: skip


def _finished(writer: Writer, head: shapes.Response, piece: Piece) -> shapes.Response:
    """The response with its answer."""
    cut = piece.finish == "length"
    usage = writer.usage([piece])
    head["output"] = [_message(head, piece)]
    head["status"] = "incomplete" if cut else "completed"
    head["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
    head["usage"] = {
        "input_tokens": usage["prompt_tokens"], "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": usage["total_tokens"],
    }  # fmt: skip
    return head


def _message(head: shapes.Response, piece: Piece | None = None) -> shapes.OutputMessage:
    """The only message; without words before there are any."""
    status = "in_progress"
    if piece is not None:
        status = "incomplete" if piece.finish == "length" else "completed"
    return {
        "id": head["id"].replace("resp_", "msg_"), "type": "message", "role": "assistant",
        "status": status, "content": [] if piece is None else [_part(piece.text)],
    }  # fmt: skip


def _part(text: str) -> shapes.OutputText:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


async def _events(writer: Writer, head: shapes.Response) -> AsyncIterator[str]:
    """Server-sent events of the answer as it is written."""
    number = 0

    def numbered(kind: str, **fields: object) -> str:
        nonlocal number
        body = {"type": kind, "sequence_number": number, **fields}
        number += 1
        return event(body, kind)

    item = {"output_index": 0, "item_id": _message(head)["id"]}
    place = {**item, "content_index": 0}
    pieces = writer.pieces()
    # What is refused at once is refused with a status, before the first event.
    _, piece = await anext(pieces)
    yield numbered("response.created", response=head)
    yield numbered("response.in_progress", response=head)
    yield numbered("response.output_item.added", output_index=0, item=_message(head))
    yield numbered("response.content_part.added", **place, part=_part(""))
    text = piece.text
    yield numbered("response.output_text.delta", **place, delta=piece.text, logprobs=[])
    try:
        async for _, piece in pieces:
            text += piece.text
            yield numbered("response.output_text.delta", **place, delta=piece.text, logprobs=[])
    except Exception as error:
        problem = broken_off(error)
        yield numbered("error", **{name: problem[name] for name in ("code", "message", "param")})
        return
    last = piece._replace(text=text)
    yield numbered("response.output_text.done", **place, text=text, logprobs=[])
    yield numbered("response.content_part.done", **place, part=_part(text))
    yield numbered("response.output_item.done", output_index=0, item=_message(head, last))
    done = _finished(writer, head, last)
    yield numbered(f"response.{done['status']}", response=done)
