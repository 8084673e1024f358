"""Answers in words, piece by piece, out of an engine that thinks in tokens and threads."""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from prompt_jax.backbones import Backbone
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.labels import Choice, ask, scores_of
from prompt_jax.serve.reader import Classified, Scored


class Piece(NamedTuple):
    """Some words of an answer."""

    text: str
    tokens: list[int]
    """Written so far."""
    finish: str | None = None
    """`stop` or `length`, in the last piece."""
    log_probs: list[float] = []
    """Of all tokens, in the last piece where no stop sequence ended it."""


def pieces(
    engine: Engine, prompt: str | None, tokens: Sequence[int], stops: Sequence[str] = (), **how: Any
) -> Iterator[Piece]:
    """An answer as it is written; whoever stops listening stops the writing.

    The answer of a prompt for a classification is one of its label words, in one piece, whatever
    `max_new_tokens` is.

    Args:
      prompt: a name in the engine; None is the plain model.
      stops: the answer ends before the first of these.
      how: as `Engine.generate` takes it.

    Raises:
      As `Engine.generate` and what its future may hold.
    """
    labels = engine.version(prompt).labels
    if labels:
        request = ask(engine, prompt, labels, tokens, how.get("timeout"))
        try:
            yield _label(engine, labels, request.result(), stops, how)
        finally:
            request.cancel()
        return
    new: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
    future = _begin(engine, prompt, tokens, new.put, how)
    words = _Words(engine.backbone, stops)
    try:
        while (some := new.get()) is not None:
            yield from words.add(some)
            if words.ended:
                return
        yield words.rest(future.result())
    finally:
        future.cancel()


async def apieces(
    engine: Engine, prompt: str | None, tokens: Sequence[int], stops: Sequence[str] = (), **how: Any
) -> AsyncIterator[Piece]:
    """As `pieces`, for an event loop."""
    labels = engine.version(prompt).labels
    if labels:
        request = ask(engine, prompt, labels, tokens, how.get("timeout"))
        try:
            yield _label(engine, labels, await asyncio.wrap_future(request), stops, how)
        finally:
            request.cancel()
        return
    loop = asyncio.get_running_loop()
    new: asyncio.Queue[list[int] | None] = asyncio.Queue()

    def tell(some: list[int] | None) -> None:
        loop.call_soon_threadsafe(new.put_nowait, some)

    future = _begin(engine, prompt, tokens, tell, how)
    words = _Words(engine.backbone, stops)
    try:
        while (some := await new.get()) is not None:
            for piece in words.add(some):
                yield piece
            if words.ended:
                return
        yield words.rest(future.result())
    finally:
        future.cancel()


def flat(messages: Sequence[tuple[str, str]]) -> str:
    """A chat as one text: a single message is its words, several are a line each.

    Args:
      messages: role and words of each.
    """
    if len(messages) == 1:
        return messages[0][1]
    return "\n".join(f"{role}: {words}" for role, words in messages)


def _begin(
    engine: Engine,
    prompt: str | None,
    tokens: Sequence[int],
    tell: Callable[[list[int] | None], None],
    how: dict[str, Any],
) -> "Future[Any]":
    future = engine.generate(prompt, tokens, stream=tell, **how)
    future.add_done_callback(lambda _: tell(None))
    return future


def _label(
    engine: Engine,
    labels: Sequence[str],
    answer: Scored | Classified,
    stops: Sequence[str],
    how: dict[str, Any],
) -> Piece:
    names = [name for name in Choice._fields if name in how]
    choice = Choice(**{name: how[name] for name in names})
    text = labels[choice.of(scores_of(answer))]
    tokens = engine.backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Piece(text[: first_stop(text, stops)], tokens, "stop")


class _Words:
    """What is said so far of an answer whose tokens come one after the other."""

    def __init__(self, backbone: Backbone, stops: Sequence[str]):
        self._backbone, self._stops = backbone, stops
        self._tokens: list[int] = []
        self._said = ""
        self.ended = False

    def add(self, new: list[int]) -> Iterator[Piece]:
        """The words that are sure by now, if there are new ones."""
        self._tokens += new
        text = self._decoded()
        end = first_stop(text, self._stops)
        if end is not None:
            self.ended = True
            yield Piece(text[len(self._said) : end], list(self._tokens), "stop")
            return
        safe = text[: len(text) - unsure(text, self._stops)]
        if len(safe) > len(self._said):
            yield Piece(safe[len(self._said) :], list(self._tokens))
            self._said = safe

    def rest(self, written: Any) -> Piece:
        """The last piece of an answer that no stop sequence has ended."""
        self._tokens = written.tokens.tolist()
        text = self._decoded()
        ended = self._tokens[-1:] == [self._backbone.config.eos_token_id]
        finish = "stop" if ended else "length"
        return Piece(text[len(self._said) :], self._tokens, finish, written.log_probs.tolist())

    def _decoded(self) -> str:
        return self._backbone.tokenizer.decode(self._tokens, skip_special_tokens=True)


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of some stop sequences begins."""
    found = [place for place in map(text.find, stops) if place >= 0]
    return min(found, default=None)


def unsure(text: str, stops: Sequence[str]) -> int:
    """How many of the last letters may yet become something else: a stop, or half a letter."""
    half = len(text) - len(text.rstrip("\ufffd"))
    begun = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return max([half, *begun])
