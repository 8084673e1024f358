"""Answers in words, piece by piece, out of an engine that thinks in tokens and threads."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from prompt_jax.serve.engine import Engine
from prompt_jax.serve.http.schemas import Sampling


class Piece(NamedTuple):
    """Some words of an answer."""

    text: str
    tokens: list[int]
    """Written so far."""
    finish: str | None = None
    """`stop` or `length`, in the last piece."""
    log_probs: list[float] = []
    """Of all tokens, in the last piece."""


class Asked(NamedTuple):
    """A text and the prompt that it is for, as the engine calls it."""

    reference: str | None
    digest: str
    tokens: list[int]


async def pieces(
    engine: Engine, asked: Asked, body: Sampling, *, seed: int, most: int, timeout: float
) -> AsyncIterator[Piece]:
    """An answer as it is written; whoever stops listening stops the writing.

    Args:
      most: tokens, where the request names no number.
      timeout: seconds for all of it.

    Raises:
      As `Engine.generate` and what its future may hold.
    """
    loop = asyncio.get_running_loop()
    new: asyncio.Queue[list[int] | None] = asyncio.Queue()

    def tell(tokens: list[int] | None) -> None:
        loop.call_soon_threadsafe(new.put_nowait, tokens)

    limit = body.max_completion_tokens or body.max_tokens or most
    future: Future[Any] = engine.generate(
        asked.reference, asked.tokens, max_new_tokens=limit, temperature=body.temperature,
        top_k=body.top_k if body.temperature else 0, seed=seed, timeout=timeout, stream=tell,
        top_p=body.top_p if body.temperature else 1.0,
    )  # fmt: skip
    future.add_done_callback(lambda _: tell(None))
    tokens: list[int] = []
    said = ""
    try:
        while (some := await new.get()) is not None:
            tokens += some
            text = decoded(engine, tokens)
            end = first_stop(text, body.stops)
            if end is not None:
                yield Piece(text[len(said) : end], list(tokens), "stop")
                return
            safe = text[: len(text) - unsure(text, body.stops)]
            if len(safe) > len(said):
                yield Piece(safe[len(said) :], list(tokens))
                said = safe
        written = future.result()
        tokens = written.tokens.tolist()
        text, ended = decoded(engine, tokens), tokens[-1:] == [_end_of(engine)]
        finish = "stop" if ended else "length"
        yield Piece(text[len(said) :], tokens, finish, written.log_probs.tolist())
    finally:
        future.cancel()


def decoded(engine: Engine, tokens: Sequence[int]) -> str:
    """Words of tokens, without those that are none."""
    return engine.backbone.tokenizer.decode(list(tokens), skip_special_tokens=True)


def _end_of(engine: Engine) -> int:
    return engine.backbone.config.eos_token_id


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of some stop sequences begins."""
    found = [place for place in map(text.find, stops) if place >= 0]
    return min(found, default=None)


def unsure(text: str, stops: Sequence[str]) -> int:
    """How many of the last letters may yet become something else: a stop, or half a letter."""
    half = len(text) - len(text.rstrip("\ufffd"))
    begun = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return max([half, *begun])
