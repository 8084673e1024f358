"""Where answers come from: an engine of this process, or a server elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from prompt_jax.config import InputError
from prompt_jax.serve import Engine, UnknownPromptError
from prompt_jax.serve.words import Piece, apieces, pieces


class Asked(NamedTuple):
    """What an answer shall be like."""

    text: str
    prompt: str
    """Its name; empty is the frozen model alone."""
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stops: tuple[str, ...] = ()
    timeout: float | None = None


class Source(Protocol):
    """Answers, whoever writes them."""

    @property
    def base(self) -> str:
        """What the frozen model is called."""
        ...

    def digest(self, prompt: str) -> str:
        """Of what a name stands for now; empty of the frozen model.

        Raises:
          UnknownPromptError: there is none of this name.
        """
        ...

    def count(self, text: str) -> int:
        """Tokens of a text; 0 where the answer tells."""
        ...

    def write(self, asked: Asked) -> Iterator[Piece]:
        """An answer as it is written."""
        ...

    def awrite(self, asked: Asked) -> AsyncIterator[Piece]:
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
        """See `Source`; so everywhere."""
        return self.engine.backbone.name

    def digest(self, prompt: str) -> str:
        """See `Source`."""
        return self.engine.version(prompt or None).digest

    def count(self, text: str) -> int:
        """See `Source`."""
        return len(self._tokens(text))

    def write(self, asked: Asked) -> Iterator[Piece]:
        """See `Source`."""
        tokens = self._tokens(asked.text)
        return pieces(self.engine, asked.prompt or None, tokens, asked.stops, **self._how(asked))

    async def awrite(self, asked: Asked) -> AsyncIterator[Piece]:
        """See `Source`."""
        tokens = await asyncio.to_thread(self._tokens, asked.text)
        given = (self.engine, asked.prompt or None, tokens, asked.stops)
        async for piece in apieces(*given, **self._how(asked)):
            yield piece

    def embed(self, prompt: str, texts: Sequence[str]) -> list[list[float]]:
        """See `Source`."""
        found = [self.engine.embed(prompt or None, text) for text in texts]
        return [each.result().vector.tolist() for each in found]

    def _tokens(self, text: str) -> list[int]:
        tokenizer = self.engine.backbone.tokenizer
        if tokenizer is None:
            raise InputError(f"backbone {self.base!r} has no tokenizer and cannot be told words")
        return tokenizer(text, verbose=False)["input_ids"]

    def _how(self, asked: Asked) -> dict[str, Any]:
        drawn = {"top_k": asked.top_k, "top_p": asked.top_p} if asked.temperature else {}
        most = asked.max_tokens or self.engine.max_new_tokens
        given = {"temperature": asked.temperature, "seed": asked.seed, "timeout": asked.timeout}
        return {"max_new_tokens": most, **given, **drawn}


class Remote:
    """A server of `prompt-jax serve`.

    Args:
      url: its address, without `/v1`.
      api_key: a key of it; empty where it has none.
      timeout: seconds that a request has, where it names none.

    Raises:
      InputError: nobody answers there.
    """

    def __init__(self, url: str, api_key: str = "", timeout: float = 60.0):
        import httpx

        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        given: dict[str, Any] = {"base_url": url, "headers": headers, "timeout": timeout}
        self._client, self._open = httpx.Client(**given), lambda: httpx.AsyncClient(**given)
        try:
            self.base: str = self._get("/v1/models")["data"][0]["id"]
        except httpx.HTTPError as error:
            raise InputError(f"no server answers at {url}: {error}") from error

    def digest(self, prompt: str) -> str:
        """See `Source`."""
        return self._get(f"/v1/models/{prompt}")["root"] if prompt else ""

    def count(self, text: str) -> int:
        """See `Source`."""
        return 0

    def write(self, asked: Asked) -> Iterator[Piece]:
        """See `Source`."""
        with self._client.stream("POST", "/v1/completions", **_request(asked)) as response:
            if response.status_code != 200:
                response.read()
                _check(response)
            written: list[int] = []
            for line in response.iter_lines():
                yield from _event(line, written)

    async def awrite(self, asked: Asked) -> AsyncIterator[Piece]:
        """See `Source`."""
        async with (
            self._open() as client,
            client.stream("POST", "/v1/completions", **_request(asked)) as response,
        ):
            if response.status_code != 200:
                await response.aread()
                _check(response)
            written: list[int] = []
            async for line in response.aiter_lines():
                for piece in _event(line, written):
                    yield piece

    def embed(self, prompt: str, texts: Sequence[str]) -> list[list[float]]:
        """See `Source`."""
        response = self._client.post("/v1/embeddings", json={"model": prompt, "input": list(texts)})
        _check(response)
        return [each["embedding"] for each in response.json()["data"]]

    def _get(self, path: str) -> dict[str, Any]:
        response = self._client.get(path)
        _check(response)
        return response.json()


def _request(asked: Asked) -> dict[str, Any]:
    body = {
        "model": asked.prompt, "prompt": asked.text, "temperature": asked.temperature,
        "top_p": asked.top_p, "top_k": asked.top_k, "seed": asked.seed, "stream": True,
        "stop": list(asked.stops), "max_tokens": asked.max_tokens,
    }  # fmt: skip
    return {"json": body, **({"timeout": asked.timeout} if asked.timeout else {})}


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
    """What a line of a stream says."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return
    found = json.loads(line.removeprefix("data: "))
    if "error" in found:
        raise InputError(f"the server said in its answer: {found['error']['message']}")
    for choice in found["choices"]:
        yield Piece(choice["text"], written, choice["finish_reason"])
