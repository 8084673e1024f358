"""Written answers in OpenAI's shapes, whole or streamed."""

import asyncio
import contextlib
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from fastapi.responses import StreamingResponse

from prompt_jax.serve.http import schemas, shapes
from prompt_jax.serve.http.budgets import spend
from prompt_jax.serve.http.errors import JSON, LATE, Refused, broken_off, invalid, late
from prompt_jax.serve.http.responses import Responses, gathered
from prompt_jax.serve.prompts import PLAIN, Served
from prompt_jax.serve.sampling import seeds
from prompt_jax.serve.spelling import Token, spell
from prompt_jax.serve.streaming import Piece, apieces

LINE_ENDS = re.compile("[\x85\u2028\u2029]")
"""Ends of lines beside those that JSON writes as escapes."""

TEXTS = 64
"""Answers of one request at most: texts times n."""


class Input(NamedTuple):
    """A text in tokens, and the prompt that it is for."""

    served: Served | None
    tokens: list[int]
    echo: Piece = Piece("")
    """What an answer begins with."""


class Shape(NamedTuple):
    """How a route writes answers."""

    kind: str
    """What a whole response calls itself."""
    chunk: str
    """What an event of a stream does."""
    words: Callable[[Piece], JSON]
    part: Callable[[Piece, bool], JSON]
    """The words of an event, and of a first one."""
    logprobs: Callable[[Sequence[Token], int], object]
    """Of tokens behind so many letters of the answer."""


def token_list(tokens: Sequence[Token], start: int) -> shapes.TokenList:
    """The tokens of a completion."""
    rows = shapes.TokenList(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for token in tokens:
        rows["tokens"].append(token.text)
        rows["token_logprobs"].append(token.log_prob)
        top: dict[str, float] = {}
        if token.log_prob is not None:
            for text, log_prob in (*token.likeliest, (token.text, token.log_prob)):
                top.setdefault(text, log_prob)  # The likelier of two that are written alike.
        rows["top_logprobs"].append(top or None)
        rows["text_offset"].append(start)
        start += token.letters
    return rows


def content_tokens(tokens: Sequence[Token], _: int = 0) -> shapes.ContentTokens:
    """The tokens of a chat's answer."""

    def candidate(text: str, log_prob: float) -> shapes.Candidate:
        return {"token": text, "logprob": log_prob, "bytes": list(text.encode())}

    content = [
        shapes.ContentToken(
            **candidate(token.text, token.log_prob or 0.0),
            top_logprobs=[candidate(*pair) for pair in token.likeliest],
        )
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _text(piece: Piece, _: bool = False) -> JSON:
    return {"text": piece.text}


def _message(piece: Piece) -> JSON:
    return {"message": {"role": "assistant", "content": piece.text, "refusal": None}}


def _delta(piece: Piece, first: bool) -> JSON:
    role = {"role": "assistant"} if first else {}
    return {"delta": role | {"content": piece.text}}


COMPLETION = Shape("text_completion", "text_completion", _text, _text, token_list)
GENERATION = Shape("generation", "generation", _text, _text, token_list)
CHAT = Shape("chat.completion", "chat.completion.chunk", _message, _delta, content_tokens)


class Writer:
    """Writes the answers of one request."""

    def __init__(self, responses: Responses, body: schemas.Sampling, inputs: Sequence[Input]):
        if len(inputs) * body.n > TEXTS:
            raise Refused(400, "too_many", f"a request has at most {TEXTS} answers", "n")
        if body.n > 1 and not body.temperature:
            raise invalid("n", "above 1 it needs a temperature above 0")
        self._responses, self.body, self.inputs = responses, body, inputs
        # A seed for each of the n answers to a text, which would be the same otherwise.
        self.rows = [(text, seed) for text in inputs for seed in seeds(body.seed, body.n)]

    async def _pieces(self, text: Input, seed: int) -> AsyncIterator[Piece]:
        """An answer as it is written."""
        body, engine = self.body, self._responses.engine
        drawn = {"top_k": max(body.top_k, 0), "top_p": body.top_p} if body.temperature else {}
        most = engine.max_new_tokens
        if text.echo.text or text.echo.tokens:
            yield text.echo
        pieces = apieces(
            engine, text.served, text.tokens, body.stops, body.likeliest, seed=seed,
            max_new_tokens=min(body.limit or most, most), temperature=body.temperature,
            repetition_penalty=body.repetition_penalty, min_new_tokens=body.min_tokens,
            stop_token_ids=body.stop_token_ids or (), timeout=self._responses.timeout, **drawn,
        )  # fmt: skip
        written = 0
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                # As they come: whoever leaves in the middle has had them all the same.
                spend(piece.written - written)
                written = piece.written
                yield piece

    async def whole(self) -> list[Piece]:
        """Every answer in one piece."""

        async def answer(text: Input, seed: int) -> Piece:
            pieces = [piece async for piece in self._pieces(text, seed)]
            tokens = tuple(token for piece in pieces for token in piece.tokens)
            return pieces[-1]._replace(text="".join(p.text for p in pieces), tokens=tokens)

        tasks = [asyncio.ensure_future(answer(*row)) for row in self.rows]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # Where one fails or the caller leaves, the others give their places on the board back.
            for task in tasks:
                task.cancel()

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """The pieces of all answers as they are written, with the number of the answer."""
        queue: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()

        async def run(index: int, text: Input, seed: int) -> None:
            try:
                async for piece in self._pieces(text, seed):
                    await queue.put((index, piece))
            except Exception as error:  # It goes into the stream, to whoever listens.
                await queue.put((index, error))

        tasks = [asyncio.ensure_future(run(i, *row)) for i, row in enumerate(self.rows)]
        left, began, timeout = len(tasks), time.monotonic(), self._responses.timeout
        end = asyncio.get_running_loop().time() + timeout + LATE
        try:
            while left:
                try:
                    async with asyncio.timeout_at(end):
                        index, piece = await queue.get()
                except TimeoutError as error:
                    raise late(timeout) from error
                if isinstance(piece, Exception):
                    raise piece
                if began:
                    self._responses.metrics.first.observe(time.monotonic() - began)
                    began = 0.0
                left -= piece.finish is not None
                yield index, piece
        finally:
            for task in tasks:
                task.cancel()

    def usage(self, last: Sequence[Piece]) -> shapes.Usage:
        """Counts the answers, of which these are the last pieces, once all are written."""
        identity, count = self._responses.identity, self._responses.metrics.count
        for (text, _), piece in zip(self.rows, last, strict=True):
            count(identity(text.served)["model"], 1, written=piece.written)
        for served, tokens, _ in self.inputs:
            virtual = (served or PLAIN).virtual_tokens
            count(identity(served)["model"], 0, read=len(tokens), virtual=virtual)
        read = sum(len(text.tokens) for text in self.inputs)
        written = sum(piece.written for piece in last)
        return {
            "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written
        }  # fmt: skip


async def respond(
    responses: Responses,
    body: schemas.Sampling,
    texts: Sequence[tuple[Served | None, str | list[int]]],
    shape: Shape,
) -> JSON | StreamingResponse:
    """A response of OpenAI's shape, whole or streamed."""
    writer = Writer(responses, body, await inputs_of(responses, body, texts))
    head: JSON = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time())}
    if body.stream:
        return await streaming(_events(responses, writer, head, shape))
    answers = await writer.whole()
    choices = [_choice(responses, writer, shape, i, piece) for i, piece in enumerate(answers)]
    head |= responses.identity(texts[0][0])
    usage = writer.usage(answers)
    return {**head, "object": shape.kind, "choices": choices, "usage": usage}


async def inputs_of(
    responses: Responses,
    body: schemas.Sampling,
    texts: Sequence[tuple[Served | None, str | list[int]]],
) -> list[Input]:
    """Texts in tokens, with what answers begin with where the request says `echo`."""
    rows = await responses.tokens([text for _, text in texts], truncate=body.truncate_prompt_tokens)
    inputs = [Input(served, row) for (served, _), row in zip(texts, rows, strict=True)]
    if not (isinstance(body, schemas.CompletionRequest) and body.echo):
        return inputs
    engine, count = responses.engine, body.likeliest
    tokenizer = engine.backbone.tokenizer
    most = responses.most(body.truncate_prompt_tokens)
    # Of a text that may have been cut, what is left.
    echoes = [
        Piece(text)
        if isinstance(text, str) and (most is None or len(row) < most)
        else Piece(tokenizer.decode(row, skip_special_tokens=True))
        for (_, text), row in zip(texts, rows, strict=True)
    ]
    if count is not None:
        timeout = responses.timeout
        read = await gathered(
            engine.read(text.served, text.tokens, top_logprobs=count, timeout=timeout)
            for text in inputs
        )
        spelled = [spell(tokenizer, row, answer) for row, answer in zip(rows, read, strict=True)]
        echoes = [echo._replace(tokens=row) for echo, row in zip(echoes, spelled, strict=True)]
    return [text._replace(echo=echo) for text, echo in zip(inputs, echoes, strict=True)]


def _choice(responses: Responses, writer: Writer, shape: Shape, index: int, piece: Piece) -> JSON:
    logprobs = None if writer.body.likeliest is None else shape.logprobs(piece.tokens, 0)
    words = shape.words(piece)
    row = {"index": index, **words, "finish_reason": piece.finish, "logprobs": logprobs}
    return row | _name(responses, writer, shape, index)


async def _events(
    responses: Responses, writer: Writer, head: JSON, shape: Shape
) -> AsyncIterator[str]:
    """Server-sent events of all answers as they are written."""
    body, letters = writer.body, [-1] * len(writer.rows)
    last = [Piece("")] * len(writer.rows)
    async for index, piece in writer.pieces():
        first, start = letters[index] < 0, max(letters[index], 0)
        letters[index] = start + sum(token.letters for token in piece.tokens)
        last[index] = piece
        logprobs = None if body.likeliest is None else shape.logprobs(piece.tokens, start)
        row = {"index": index, **shape.part(piece, first), "finish_reason": piece.finish}
        row |= {"logprobs": logprobs, **_name(responses, writer, shape, index)}
        identity = responses.identity(writer.rows[index][0].served)
        yield event({**head, **identity, "object": shape.chunk, "choices": [row]})
    usage = writer.usage(last)
    if body.stream_options and body.stream_options.include_usage:
        identity = responses.identity(writer.rows[0][0].served)
        yield event({**head, **identity, "object": shape.chunk, "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def _name(responses: Responses, writer: Writer, shape: Shape, index: int) -> JSON:
    """Which prompt a choice is of, where every text may have another."""
    if shape is not GENERATION:
        return {}
    identity = responses.identity(writer.rows[index][0].served)
    return {"model": identity["model"], "prompt_digest": identity["prompt_digest"]}


async def streaming(events: AsyncIterator[str]) -> StreamingResponse:
    """A response of server-sent events."""
    first = await anext(events)  # What is refused at once is refused with a status.
    return StreamingResponse(
        _prefixed(first, events),
        media_type="text/event-stream",
        # nginx would hold a stream back until its buffer is full.
        headers={"X-Accel-Buffering": "no"},
    )


async def _prefixed(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    """A stream whose first event is there; an error in it is its last event."""
    yield first
    try:
        async for line in rest:
            yield line
    except Exception as error:  # Only the stream can carry it.
        yield event({"error": broken_off(error)})


def event(body: JSON, kind: str = "") -> str:
    """A server-sent event."""
    data = json.dumps(body, ensure_ascii=False)
    # Clients that split lines as Unicode does would end the event there.
    data = LINE_ENDS.sub(lambda end: f"\\u{ord(end[0]):04x}", data)
    return f"event: {kind}\ndata: {data}\n\n" if kind else f"data: {data}\n\n"
