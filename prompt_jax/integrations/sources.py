"""Where answers come from: an engine of this process, or a server elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from prompt_jax.config import InputError
from prompt_jax.data.texts import tokenized
from prompt_jax.serve import Engine, UnknownPromptError
from prompt_jax.serve.sampling import seeds
from prompt_jax.serve.streaming import Piece, apieces, pieces
from prompt_jax.tasks.text import Messages


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


class Source(Protocol):
    """Answers, whoever writes them."""

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

    def count(self, call: Call) -> int:
        """Tokens of what a call has read; 0 where the answer tells."""
        ...

    def write(self, call: Call) -> Iterator[Piece]:
        """An answer as it is written."""
        ...

    def awrite(self, call: Call) -> AsyncIterator[Piece]:
        """As `write`, for an event loop."""
        ...

    def embed(self, prompt: str, texts: Sequence[str]) -> list[list[float]]:
        """A vector [D] for each text."""
        ...


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

    def count(self, call: Call) -> int:
        """Tokens of what a call has read."""
        return len(self._tokens(call))

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

    def embed(self, prompt: str, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text."""
        # All are submitted before one is waited for, so that they share batches.
        futures = [self.engine.embed(prompt or None, text) for text in texts]
        return [future.result().vector.tolist() for future in futures]

    def _tokens(self, call: Call) -> list[int]:
        tokenizer, text = self.engine.backbone.tokenizer, call.input
        if tokenizer is None:
            raise InputError(f"backbone {self.base!r} has no tokenizer and cannot be told words")
        if not isinstance(text, str):
            text = self.engine.version(call.prompt or None).conversation(text, tokenizer)
        return tokenized(tokenizer, [text])[0][0]

    def _sampling(self, call: Call) -> dict[str, object]:
        drawn = {"top_k": call.top_k, "top_p": call.top_p} if call.temperature else {}
        most = self.engine.max_new_tokens
        return {
            "max_new_tokens": min(call.max_tokens or most, most), "timeout": call.timeout, **drawn,
            "temperature": call.temperature, "seed": seeds(call.seed, 1)[0],
            "repetition_penalty": call.repetition_penalty, "min_new_tokens": call.min_tokens,
            "stop_token_ids": call.stop_token_ids,
        }  # fmt: skip


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
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        # A client of an event loop belongs to that loop, so every call opens its own.
        self._open = lambda: httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout)
        try:
            self.base: str = self._get("/v1/models")["data"][0]["id"]
        except httpx.HTTPError as error:
            raise InputError(f"no server answers at {url}: {error}") from error

    def digest(self, prompt: str) -> str:
        """The digest of what a name stands for now; empty of the frozen model."""
        return self._get(f"/v1/models/{prompt}")["root"] if prompt else ""

    def count(self, call: Call) -> int:
        """0: the answer of a server tells how many it read."""
        return 0

    def write(self, call: Call) -> Iterator[Piece]:
        """An answer as it is written."""
        with self._client.stream("POST", **_request(call)) as response:
            if response.status_code != 200:
                # The body of a stream is not there until it is read, and it says what was wrong.
                response.read()
                _check(response)
            written: list[int] = []
            for line in response.iter_lines():
                yield from _event(line, written)

    async def awrite(self, call: Call) -> AsyncIterator[Piece]:
        """An answer as it is written, for an event loop."""
        async with (
            self._open() as client,
            client.stream("POST", **_request(call)) as response,
        ):
            if response.status_code != 200:
                await response.aread()
                _check(response)
            written: list[int] = []
            async for line in response.aiter_lines():
                for piece in _event(line, written):
                    yield piece

    def embed(self, prompt: str, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text."""
        response = self._client.post("/v1/embeddings", json={"model": prompt, "input": list(texts)})
        _check(response)
        return [row["embedding"] for row in response.json()["data"]]

    def _get(self, path: str) -> dict[str, Any]:
        response = self._client.get(path)
        _check(response)
        return response.json()


def _request(call: Call) -> dict[str, Any]:
    body: dict[str, object] = {
        "model": call.prompt, "temperature": call.temperature,
        "top_p": call.top_p, "top_k": call.top_k, "seed": call.seed, "stream": True,
        "stop": list(call.stops), "max_tokens": call.max_tokens,
        "repetition_penalty": call.repetition_penalty, "min_tokens": call.min_tokens,
        "stop_token_ids": list(call.stop_token_ids),
    }  # fmt: skip
    if isinstance(call.input, str):
        url, body["prompt"] = "/v1/completions", call.input
    else:  # The server has the tokenizer, and so the template.
        url, messages = "/v1/chat/completions", [message._asdict() for message in call.input]
        body["messages"] = messages
    return {"url": url, "json": body, **({"timeout": call.timeout} if call.timeout else {})}


def _check(response: Any) -> None:
    if response.status_code == 200:
        return
    try:
        error = response.json()["error"]
        code, message = error["code"], error["message"]
    except (ValueError, KeyError, TypeError):
        code, message = "", response.text[:200]
    kind = UnknownPromptError if code == "model_not_found" else InputError
    raise kind(f"the server said {response.status_code}: {message}")


def _event(line: str, written: list[int]) -> Iterator[Piece]:
    """The pieces of an answer in a line of a stream."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return
    chunk = json.loads(line.removeprefix("data: "))
    if "error" in chunk:
        raise InputError(f"the server said in its answer: {chunk['error']['message']}")
    for choice in chunk["choices"]:
        text = choice["delta"]["content"] if "delta" in choice else choice["text"]
        yield Piece(text, written, choice["finish_reason"])
