"""Where answers come from: an engine of this process, or a server elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from prompt_jax.config import InputError
from prompt_jax.data.texts import tokenized
from prompt_jax.integrations.retries import tried
from prompt_jax.serve import (
    DeadlineError,
    Embedded,
    Engine,
    EngineError,
    PoisonedPromptError,
    QueueFullError,
    Served,
    UnknownPromptError,
)
from prompt_jax.serve.sampling import seeds
from prompt_jax.serve.streaming import Piece, apieces, pieces
from prompt_jax.tasks.text import Messages

BATCH = 64
"""Texts that a server takes in one request."""
ERRORS: dict[str, type[Exception]] = {
    "model_not_found": UnknownPromptError,
    "prompt_poisoned": PoisonedPromptError,
    "deadline": DeadlineError,
    "internal": EngineError,
}
"""By the code of a server's error; all others are the caller's."""


class Call(NamedTuple):
    """One call of a model: a text or a chat, a prompt, and how the answer is written."""

    input: str | Messages
    prompt: str
    """Its name; empty is the frozen model alone."""
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    """None draws anew."""
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    stops: tuple[str, ...] = ()
    timeout: float | None = None
    retries: int = 0
    """Further tries where too many requests wait."""


class Source(Protocol):
    """Answers, from a server or from an engine in this process."""

    @property
    def base(self) -> str:
        """What the frozen model is called."""
        ...

    def digest(self, prompt: str) -> str:
        """The digest of what a name stands for now; empty of the frozen model.

        Raises:
          UnknownPromptError: there is none of this name.
        """
        ...

    def write(self, call: Call) -> Iterator[Piece]:
        """An answer as it is written."""
        ...

    def awrite(self, call: Call) -> AsyncIterator[Piece]:
        """As `write`, for an event loop."""
        ...

    def embed(self, prompt: str, texts: Sequence[str], retries: int = 0) -> list[list[float]]:
        """A vector [D] for each text, all by one version of the prompt."""
        ...


def batches(texts: Sequence[str]) -> list[Sequence[str]]:
    """Texts in parts that one request may have."""
    return [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]


class Local:
    """An engine of this process; requests of many threads and loops share its batches.

    Args:
      engine: see `prompt_jax.serve.Engine`.
    """

    def __init__(self, engine: Engine):
        self.engine = engine

    @property
    def base(self) -> str:
        """What the frozen model is called."""
        return self.engine.backbone.name

    def digest(self, prompt: str) -> str:
        """The digest of what a name stands for now; empty of the frozen model."""
        return self.engine.version(prompt or None).digest

    def write(self, call: Call) -> Iterator[Piece]:
        """An answer as it is written."""
        tokens = self._tokens(call)
        return pieces(self.engine, call.prompt or None, tokens, call.stops, **self._sampling(call))

    async def awrite(self, call: Call) -> AsyncIterator[Piece]:
        """An answer as it is written, for an event loop."""
        # In a thread, since a long text would hold up the event loop.
        tokens = await asyncio.to_thread(self._tokens, call)
        sampling = self._sampling(call)
        async for piece in apieces(
            self.engine, call.prompt or None, tokens, call.stops, **sampling
        ):
            yield piece

    def embed(self, prompt: str, texts: Sequence[str], retries: int = 0) -> list[list[float]]:
        """A vector for each text."""
        served, vectors = self.engine.version(prompt or None), []
        for batch in batches(texts):
            vectors += tried(retries, self._embedded, served, batch)
        return vectors

    def _embedded(self, served: Served, texts: Sequence[str]) -> list[list[float]]:
        futures: list[Future[Embedded]] = []
        try:
            # All are submitted before one is waited for, so that they share batches.
            for text in texts:
                futures.append(self.engine.embed(served, text))
            return [future.result().vector.tolist() for future in futures]
        finally:
            # Where one is refused, those before it leave the queue to others.
            for future in futures:
                future.cancel()

    def _tokens(self, call: Call) -> list[int]:
        tokenizer, text = self.engine.backbone.tokenizer, call.input
        if tokenizer is None:
            raise InputError(f"backbone {self.base!r} has no tokenizer, and requests bring texts")
        if not isinstance(text, str):
            text = self.engine.version(call.prompt or None).conversation(text, tokenizer)
        return tokenized(tokenizer, [text])[0][0]

    def _sampling(self, call: Call) -> dict[str, Any]:
        drawn = {"top_k": call.top_k, "top_p": call.top_p} if call.temperature else {}
        most = self.engine.max_new_tokens
        return {
            "max_new_tokens": min(call.max_tokens or most, most), "timeout": call.timeout, **drawn,
            "temperature": call.temperature, "seed": seeds(call.seed, 1)[0],
            "repetition_penalty": call.repetition_penalty, "min_new_tokens": call.min_tokens,
            "stop_token_ids": call.stop_token_ids,
        }  # fmt: skip


class BusyError(QueueFullError):
    """A server that takes no request now (429, 503)."""

    def __init__(self, message: str, after: float):
        super().__init__(message)
        self.after = after


class Remote:
    """A server of `prompt-jax serve`.

    Args:
      url: its address, without `/v1`.
      api_key: a key of it; empty where it has none.
      timeout: seconds that a request has, where it names none.
    """

    def __init__(self, url: str, api_key: str = "", timeout: float = 60.0):
        import httpx

        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        options = {"base_url": url, "headers": headers, "timeout": _seconds(timeout)}
        self._client = httpx.Client(**options)
        self._open = lambda: httpx.AsyncClient(**options)
        self._clients: dict[asyncio.AbstractEventLoop, tuple[Any, AsyncIterator[None]]] = {}
        try:
            self.base: str = self._get("/v1/models")["data"][0]["id"]
        except httpx.HTTPError as error:
            raise InputError(f"no server answers at {url}: {error}") from error

    def digest(self, prompt: str) -> str:
        """The digest of what a name stands for now; empty of the frozen model."""
        return self._get(f"/v1/models/{prompt}")["root"] if prompt else ""

    def write(self, call: Call) -> Iterator[Piece]:
        """An answer as it is written."""
        with self._client.stream("POST", **_request(call)) as response:
            if response.status_code != 200:
                # The body of a stream is not there until it is read, and it says what was wrong.
                response.read()
                _check(response)
            events = Events()
            for line in response.iter_lines():
                yield from events.pieces(line)
            events.check_whole()

    async def awrite(self, call: Call) -> AsyncIterator[Piece]:
        """An answer as it is written, for an event loop."""
        client = await self._client_of_loop()
        async with client.stream("POST", **_request(call)) as response:
            if response.status_code != 200:
                await response.aread()
                _check(response)
            events = Events()
            async for line in response.aiter_lines():
                for piece in events.pieces(line):
                    yield piece
            events.check_whole()

    def embed(self, prompt: str, texts: Sequence[str], retries: int = 0) -> list[list[float]]:
        """A vector for each text."""
        model, vectors = prompt, []
        for batch in batches(texts):
            answer = tried(retries, self._embedded, model, batch)
            vectors += [row["embedding"] for row in answer["data"]]
            # `films@2` of `films`: the name may mean another version by the next batch.
            model = answer["model"]
        return vectors

    def _embedded(self, model: str, texts: Sequence[str]) -> dict[str, Any]:
        response = self._client.post("/v1/embeddings", json={"model": model, "input": list(texts)})
        _check(response)
        return response.json()

    def _get(self, path: str) -> dict[str, Any]:
        response = self._client.get(path)
        _check(response)
        return response.json()

    async def _client_of_loop(self) -> Any:
        """The client of the running loop: connections belong to the loop that opened them."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            for ended in [old for old in self._clients if old.is_closed()]:
                del self._clients[ended]
            client = self._open()
            # asyncio.run closes the generators of its loop, and this one closes the client.
            keeper = _closing(client)
            self._clients[loop] = client, keeper
            await anext(keeper)
        return self._clients[loop][0]


async def _closing(client: Any) -> AsyncIterator[None]:
    async with client:
        yield


def _seconds(timeout: float) -> Any:
    """The limits of a request; it may wait for a connection as long as others need theirs."""
    import httpx

    return httpx.Timeout(timeout, pool=None)


def _request(call: Call) -> dict[str, Any]:
    body: dict[str, object] = {
        "model": call.prompt, "temperature": call.temperature,
        "top_p": call.top_p, "top_k": call.top_k, "seed": call.seed, "stream": True,
        "stop": list(call.stops), "max_tokens": call.max_tokens,
        "repetition_penalty": call.repetition_penalty, "min_tokens": call.min_tokens,
        "stop_token_ids": list(call.stop_token_ids), "stream_options": {"include_usage": True},
    }  # fmt: skip
    if isinstance(call.input, str):
        url, body["prompt"] = "/v1/completions", call.input
    else:  # The server has the tokenizer, and so the template.
        url, messages = "/v1/chat/completions", [message._asdict() for message in call.input]
        body["messages"] = messages
    limits = {"timeout": _seconds(call.timeout)} if call.timeout else {}
    return {"url": url, "json": body, **limits}


def _check(response: Any) -> None:
    if response.status_code == 200:
        return
    try:
        error = response.json()["error"]
        code, message = error["code"], error["message"]
    except (ValueError, KeyError, TypeError):
        code, message = "", response.text[:200]
    message = f"the server said {response.status_code}: {message}"
    if response.status_code in (429, 503):
        after = response.headers.get("Retry-After", "")
        raise BusyError(message, float(after) if after.isdigit() else 0.0)
    raise ERRORS.get(code, InputError)(message)


class Events:
    """Reads the events of a streamed answer."""

    def __init__(self):
        self._last: Piece | None = None
        self._whole = False

    def pieces(self, line: str) -> Iterator[Piece]:
        """The pieces of an answer in a line of the stream."""
        if not line.startswith("data: ") or line == "data: [DONE]":
            return
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise EngineError(f"the server said in its answer: {chunk['error']['message']}")
        for choice in chunk["choices"]:
            text = choice["delta"]["content"] if "delta" in choice else choice["text"]
            piece = Piece(text, choice["finish_reason"], digest=chunk["prompt_digest"])
            if piece.finish is None:
                yield piece
            else:  # Tokens are counted in the event behind the last piece.
                self._last = piece
        if self._last is not None and "usage" in chunk:
            usage, self._whole = chunk["usage"], True
            read, count = usage["prompt_tokens"], usage["completion_tokens"]
            yield self._last._replace(read=read, written=count)

    def check_whole(self) -> None:
        """Checks that the answer has its end."""
        if not self._whole:
            raise EngineError("the answer of the server broke off; ask again")
