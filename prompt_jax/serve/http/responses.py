"""Responses, whole or streamed, and what all routes share for them."""

import asyncio
import contextlib
import functools
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

from fastapi.responses import StreamingResponse

from prompt_jax.data.texts import tokenized
from prompt_jax.prompts import nearest_words
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.http import schemas
from prompt_jax.serve.http.auth import View
from prompt_jax.serve.http.budgets import spend
from prompt_jax.serve.http.errors import JSON, Refused, error_of, invalid
from prompt_jax.serve.http.metrics import Metrics
from prompt_jax.serve.prompts import Served
from prompt_jax.serve.sampling import seeds
from prompt_jax.serve.streaming import Piece, apieces
from prompt_jax.tasks import Text

SHORT = 2000
"""Letters of a text that is tokenised at once."""
TEXTS = 64
"""Answers of one request at most: texts times n."""
Answer = TypeVar("Answer")


class Input(NamedTuple):
    """A text in tokens, and the prompt that it is for."""

    served: Served | None
    tokens: list[int]


class Responses:
    """What routes share: which prompt a request means, its tokens, and its answers."""

    def __init__(self, engine: Engine, base: str, metrics: Metrics, timeout: float):
        self.engine, self.base, self.metrics, self.timeout = engine, base, metrics, timeout
        self._nearest: dict[str, list[str]] = {}

    async def served(self, view: View, body: schemas.Prompted) -> Served | None:
        """The prompt that a request names, or composes."""
        compose = body.compose
        if compose is None:
            return view.find(body.model)
        composed = await asyncio.to_thread(
            view.composed, compose.prompts, compose.how, compose.weights
        )
        if composed is None:
            raise invalid("compose.prompts", "the base has nothing to compose")
        return composed

    async def tokens(
        self,
        texts: Sequence[str | list[int]],
        served: Served | None = None,
        times: int = 1,
    ) -> list[list[int]]:
        """The tokens of texts, each as the prompt was trained to read it; tokens as they are.

        Args:
          times: how often each is read, for the budget of the key.
        """
        tokenizer = self.engine.backbone.tokenizer
        in_turns = served is not None and served.target_place == "turn"
        rows = []
        for text in texts:
            if isinstance(text, list):
                rows.append(text)
                continue
            text = served.trained_form(text) if served is not None and in_turns else text
            if isinstance(text, Text):
                rows += (await asyncio.to_thread(tokenized, tokenizer, [text]))[0]
                continue
            # To another thread and back takes longer than a short text.
            encode = functools.partial(tokenizer, text, verbose=False)
            encoded = encode() if len(text) <= SHORT else await asyncio.to_thread(encode)
            rows.append(encoded["input_ids"])
        spend(times * sum(map(len, rows)))
        return rows

    def identity(self, served: Served | None) -> dict[str, str]:
        """Which numbers answer: the fields that go into every response."""
        base = self.engine.backbone.fingerprint[:12]
        digest = "" if served is None else served.digest
        return {
            "model": self.base if served is None else served.reference,
            "system_fingerprint": f"{base}-{digest[:12]}" if digest else base,
            "prompt_digest": digest,
        }

    def model(self, served: Served | None) -> JSON:
        """OpenAI's object of a model: the frozen one, or a prompt for it."""
        base = self.base
        about = {"object": "model", "created": int(self.metrics.began), "owned_by": "prompt_jax"}
        if served is None or served.prompt is None:
            return {"id": base, **about, "root": self.engine.backbone.fingerprint, "parent": None}
        return {
            "id": served.reference, **about, "root": served.digest, "parent": base,
            "aliases": list(served.aliases), "method": served.prompt.method.kind,
        }  # fmt: skip

    def nearest_words(self, served: Served) -> list[str]:
        """The word nearest to each of a prompt's virtual tokens; none where it has none."""
        prompt = served.prompt
        if prompt is None or not prompt.method.rows_only:
            return []
        if "prompt" not in prompt.arrays:
            return []
        words = self._nearest.get(served.digest)
        if words is None:
            backbone = self.engine.backbone
            nearest = nearest_words(prompt.rows, backbone.table, backbone.tokenizer, k=1)
            words = self._nearest[served.digest] = [row[0][0] for row in nearest]
        return words

    async def pieces(
        self, prompted: Input, body: schemas.Sampling, seed: int
    ) -> AsyncIterator[Piece]:
        """An answer as it is written."""
        drawn = {"top_k": max(body.top_k, 0), "top_p": body.top_p} if body.temperature else {}
        most = self.engine.max_new_tokens
        pieces = apieces(
            self.engine, prompted.served, prompted.tokens, body.stops, seed=seed,
            max_new_tokens=min(body.limit or most, most), temperature=body.temperature,
            repetition_penalty=body.repetition_penalty, min_new_tokens=body.min_tokens,
            stop_token_ids=body.stop_token_ids or (), timeout=self.timeout, **drawn,
        )  # fmt: skip
        written = 0
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                # As they come: whoever leaves in the middle has had them all the same.
                spend(len(piece.tokens) - written)
                written = len(piece.tokens)
                yield piece

    async def respond(
        self,
        body: schemas.Sampling,
        texts: Sequence[tuple[Served | None, str | list[int]]],
        kind: str,
    ) -> JSON | StreamingResponse:
        """A response of OpenAI's shape, whole or streamed."""
        if len(texts) * body.n > TEXTS:
            raise Refused(400, "too_many", f"a request has at most {TEXTS} answers", "n")
        if body.n > 1 and not body.temperature:
            raise invalid("n", "above 1 it needs a temperature above 0")
        tokens = await self.tokens([text for _, text in texts])
        inputs = [Input(served, row) for (served, _), row in zip(texts, tokens, strict=True)]
        head: JSON = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time())}
        head |= self.identity(texts[0][0])
        if body.stream:
            stream = self._streamed(body, inputs, head, kind)
            first = await anext(stream)  # What is refused at once is refused with a status.
            return StreamingResponse(
                prefixed(first, stream),
                media_type="text/event-stream",
                # nginx would hold a stream back until its buffer is full.
                headers={"X-Accel-Buffering": "no"},
            )

        async def answer(prompted: Input, seed: int) -> tuple[str, Piece]:
            pieces = [piece async for piece in self.pieces(prompted, body, seed)]
            return "".join(piece.text for piece in pieces), pieces[-1]

        rows = rows_of(body, inputs)
        tasks = [asyncio.ensure_future(answer(*row)) for row in rows]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            # Where one fails or the caller leaves, the others give their places on the board back.
            for task in tasks:
                task.cancel()
        choices = [choice(i, text, last, body, kind) for i, (text, last) in enumerate(answers)]
        if kind == "generation":  # Every text may have a prompt of its own.
            for row, (prompted, _) in zip(choices, rows, strict=True):
                identity = self.identity(prompted.served)
                row |= {"model": identity["model"], "prompt_digest": identity["prompt_digest"]}
        written = sum(len(last.tokens) for _, last in answers)
        usage = self._usage(kind, head, inputs, len(answers), written)
        return {**head, "object": kind, "choices": choices, "usage": usage}

    async def _streamed(
        self, body: schemas.Sampling, inputs: Sequence[Input], head: JSON, kind: str
    ) -> AsyncIterator[str]:
        """Server-sent events of all answers as they are written."""
        chat = kind == "chat.completion"
        chunk = f"{kind}.chunk" if chat else kind
        queue: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()

        async def run(index: int, prompted: Input, seed: int) -> None:
            try:
                async for piece in self.pieces(prompted, body, seed):
                    await queue.put((index, piece))
            except Exception as error:  # It goes into the stream, to whoever listens.
                await queue.put((index, error))

        rows = rows_of(body, inputs)
        tasks = [asyncio.ensure_future(run(i, *row)) for i, row in enumerate(rows)]
        left, written, began = len(rows), 0, time.monotonic()
        try:
            while left:
                index, piece = await queue.get()
                if isinstance(piece, Exception):
                    raise piece
                if began:
                    self.metrics.first.observe(time.monotonic() - began)
                    began = 0.0
                delta = {"delta": {"role": "assistant", "content": piece.text}}
                words = delta if chat else {"text": piece.text}
                row = {"index": index, **words, "finish_reason": piece.finish, "logprobs": None}
                yield event({**head, "object": chunk, "choices": [row]})
                if piece.finish is not None:
                    left, written = left - 1, written + len(piece.tokens)
            usage = self._usage(kind, head, inputs, len(rows), written)
            if body.stream_options and body.stream_options.include_usage:
                yield event({**head, "object": chunk, "choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
        finally:
            for task in tasks:
                task.cancel()

    def _usage(
        self, kind: str, head: JSON, inputs: Sequence[Input], rows: int, written: int
    ) -> dict[str, int]:
        """Counts answers once all are written; tokens of texts and answers, no virtual ones."""
        read = sum(len(prompted.tokens) for prompted in inputs)
        self.metrics.count(kind, str(head["model"]), rows, read=read, written=written)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def rows_of(body: schemas.Sampling, inputs: Sequence[Input]) -> list[tuple[Input, int]]:
    """Every answer's input, and the seed of it."""
    return [(prompted, seed) for prompted in inputs for seed in seeds(body.seed, body.n)]


def choice(index: int, text: str, last: Piece, body: schemas.Sampling, kind: str) -> JSON:
    """An answer among the choices of a response."""
    words: JSON = {"text": text}
    if kind == "chat.completion":
        words = {"message": {"role": "assistant", "content": text}}
    log_probs = None
    if body.logprobs:
        log_probs = {"token_logprobs": last.log_probs, "token_ids": last.tokens}
    return {"index": index, **words, "finish_reason": last.finish, "logprobs": log_probs}


async def gathered(requests: Iterable[Future[Answer]]) -> list[Answer]:
    """What the engine answers, once all is there.

    Args:
      requests: begins one as it is read; where one is refused or the caller leaves, those before
        it are cancelled.
    """
    futures: list[Future[Answer]] = []
    try:
        futures.extend(requests)
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
    finally:
        for future in futures:
            future.cancel()


async def prefixed(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    """A stream whose first event is there; an error in it is its last event."""
    yield first
    try:
        async for line in rest:
            yield line
    except Exception as error:  # The status has been sent; only the stream can carry the error.
        yield event(error_of(error)[1])


def event(body: JSON) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
