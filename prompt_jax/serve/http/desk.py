"""What the routes share: who is meant, what is asked, and what is told of it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple

from prompt_jax.prompts.report import nearest_words
from prompt_jax.serve.catalog import Catalog, Served
from prompt_jax.serve.errors import UnknownPromptError
from prompt_jax.serve.http import schemas
from prompt_jax.serve.http.answers import Refused
from prompt_jax.serve.http.keys import Key
from prompt_jax.serve.http.metrics import Metrics
from prompt_jax.serve.words import Piece, apieces

SHORT = 2000
"""Letters of a text that is read at once."""
TEXTS = 64
"""Answers of one request at most: texts times n."""


class Asked(NamedTuple):
    """A text and the prompt that it is for, as the engine calls it."""

    reference: str | None
    digest: str
    tokens: list[int]


class Desk:
    """What routes share: who is meant, what it is asked, and what came of it."""

    def __init__(self, catalog: Catalog, metrics: Metrics, timeout: float):
        self.catalog, self.engine, self.metrics = catalog, catalog.engine, metrics
        self.timeout = timeout
        self._nearest: dict[str, list[str]] = {}

    def find(self, key: Key, model: str) -> Served | None:
        """The prompt that a request means; one that it may not see is not there.

        Raises:
          UnknownPromptError: there is none.
        """
        found = self.catalog.find(model)
        if found is not None and not key.sees(found.name):
            raise UnknownPromptError(f"there is no model {model[:80]!r}")
        return found

    async def meant(self, key: Key, body: schemas.Asking) -> Served | None:
        """The prompt that a request names, or composes.

        Raises:
          UnknownPromptError: there is none.
          InputError: they cannot be composed so.
        """
        if body.compose is None:
            return self.find(key, body.model)
        wanted = body.compose
        parts = [self.find(key, name) for name in wanted.prompts]
        if None in parts:
            raise invalid("compose.prompts", "the base has nothing to compose")
        given = ([part for part in parts if part], wanted.how, wanted.weights)
        return await asyncio.to_thread(self.catalog.composed, *given)

    def nearest_words(self, served: Served) -> list[str]:
        """The word nearest to each of a prompt's virtual tokens; none where it has none."""
        prompt = served.prompt
        if not prompt.method.rows_only or "prompt" not in prompt.arrays:
            return []
        found = self._nearest.get(served.digest)
        if found is None:
            backbone = self.engine.backbone
            words = nearest_words(prompt.rows, backbone.table, backbone.tokenizer, k=1)
            found = self._nearest[served.digest] = [row[0][0] for row in words]
        return found

    async def asked(self, served: Served | None, text: str) -> Asked:
        """A text in tokens, for a prompt."""
        tokenizer = self.engine.backbone.tokenizer
        read = lambda: tokenizer(text, verbose=False)["input_ids"]  # noqa: E731
        # To another thread and back takes longer than reading a short text.
        tokens = read() if len(text) <= SHORT else await asyncio.to_thread(read)
        if served is None:
            return Asked(None, "", tokens)
        return Asked(served.reference, served.digest, tokens)

    def about(self, served: Served | None) -> dict[str, str]:
        """Which numbers answered."""
        base = self.engine.backbone.fingerprint[:12]
        digest = "" if served is None else served.digest
        return {
            "model": self.catalog.base if served is None else served.reference,
            "system_fingerprint": f"{base}-{digest[:12]}" if digest else base,
            "prompt_digest": digest,
        }

    def count(self, route: str, model: str, rows: int, *, read: int = 0, written: int = 0) -> None:
        """Counts answers that were given, and the tokens of their texts and their own."""
        self.metrics.done.labels(route, self.metrics.label(model)).inc(rows)
        self.metrics.read.inc(read)
        self.metrics.written.inc(written)

    async def whole(self, asked: Asked, body: schemas.Sampling, seed: int) -> tuple[str, Piece]:
        """An answer and its last piece."""
        said, last = "", Piece("", [])
        async for piece in self.pieces(asked, body, seed):
            said, last = said + piece.text, piece
        return said, last

    def pieces(self, asked: Asked, body: schemas.Sampling, seed: int) -> AsyncIterator[Piece]:
        """An answer as it is written."""
        drawn = {"top_k": body.top_k, "top_p": body.top_p} if body.temperature else {}
        return apieces(
            self.engine, asked.reference, asked.tokens, body.stops, seed=seed,
            max_new_tokens=body.most or self.engine.max_new_tokens, temperature=body.temperature,
            timeout=self.timeout, **drawn,
        )  # fmt: skip


def card(desk: Desk, served: Served | None) -> dict[str, Any]:
    """What is told of a model: the frozen one, or a prompt for it."""
    base = desk.catalog.base
    about = {"object": "model", "created": int(desk.metrics.began), "owned_by": "prompt_jax"}
    if served is None:
        return {"id": base, **about, "root": desk.engine.backbone.fingerprint, "parent": None}
    own = {"aliases": list(served.aliases), "method": served.prompt.method.kind}
    return {"id": served.reference, **about, "root": served.digest, "parent": base, **own}


async def together(asked: Iterable[Future[Any]]) -> list[Any]:
    """What the engine answers, once all is there.

    Args:
      asked: asks as it is read; where that is refused or the caller leaves, what was asked before
        is cancelled.
    """
    futures: list[Future[Any]] = []
    try:
        futures.extend(asked)
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
    finally:
        for future in futures:
            future.cancel()


def invalid(param: str, message: str) -> Refused:
    """A field that the request cannot have so."""
    return Refused(400, "invalid_request", f"{param}: {message}", param)


def refuse_unsupported(body: schemas.Body) -> None:
    """Fields that would change the answer and cannot.

    Raises:
      Refused: the request has one.
    """
    for name in schemas.UNSUPPORTED:
        if (body.model_extra or {}).get(name) not in (None, 0, 1, [], {}, ""):
            raise Refused(400, "unsupported", f"{name} is not supported here", name)
