"""Answers in words, piece by piece, out of an engine that thinks in tokens and threads.

A prompt for a classification answers with one of its label words, whole, and never other words.
"""

import asyncio
import queue
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from prompt_jax.backbones import Backbone
from prompt_jax.generate import first_stop
from prompt_jax.generate.sampling import restrict
from prompt_jax.serve.continuous import Written
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.prompts import Served
from prompt_jax.serve.requests import TextOrTokens
from prompt_jax.serve.scoring import Classified, Scored


class Piece(NamedTuple):
    """Some words of an answer."""

    text: str
    tokens: list[int]
    """Written so far."""
    finish: str | None = None
    """`stop` or `length`, in the last piece."""
    log_probs: list[float] = []
    """Log-probabilities of all tokens, in the last piece where no stop sequence ended it."""


class Choice(NamedTuple):
    """How a label word is chosen: as a token would be, out of as many as there are labels."""

    temperature: float = 0.0
    """0 takes the likeliest."""
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def of(self, scores: Float[np.ndarray, " C"]) -> int:
        """The number of a label word.

        Args:
          scores: log-likelihoods.
        """
        if not self.temperature:
            return int(scores.argmax())
        scaled = jnp.asarray(scores, jnp.float32)[None] / self.temperature
        kept = restrict(scaled, jnp.int32(self.top_k or scaled.shape[1]), jnp.float32(self.top_p))
        return int(jax.random.categorical(jax.random.key(self.seed), kept[0]))


def pieces(
    engine: Engine,
    prompt: str | Served | None,
    tokens: TextOrTokens,
    stops: Sequence[str] = (),
    **sampling: Any,
) -> Iterator[Piece]:
    """An answer as it is written; whoever stops listening stops the writing.

    A label word comes in one piece, whatever `max_new_tokens` is.

    Args:
      stops: the answer ends before the first of these.
    """
    served = engine.version(prompt)
    if served.labels:
        request = _label_scores(engine, served, tokens, sampling.get("timeout"))
        try:
            yield _label(engine, served, request.result(), stops, sampling)
        finally:
            request.cancel()
        return
    new: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
    future = _begin(engine, served, tokens, new.put, sampling)
    text = Detokeniser(engine.backbone, stops, sampling.get("stop_token_ids", ()))
    try:
        while (burst := new.get()) is not None:
            yield from text.add(burst)
            if text.stopped:
                return
        yield text.rest(future.result())
    finally:
        # Also when the consumer closes the generator: the engine drops what nobody waits for.
        future.cancel()


async def apieces(
    engine: Engine,
    prompt: str | Served | None,
    tokens: TextOrTokens,
    stops: Sequence[str] = (),
    **sampling: Any,
) -> AsyncGenerator[Piece, None]:
    """As `pieces`, for an event loop."""
    served = engine.version(prompt)
    if served.labels:
        request = _label_scores(engine, served, tokens, sampling.get("timeout"))
        try:
            yield _label(engine, served, await asyncio.wrap_future(request), stops, sampling)
        finally:
            request.cancel()
        return
    loop = asyncio.get_running_loop()
    new: asyncio.Queue[list[int] | None] = asyncio.Queue()

    # Tokens come from the thread of the engine, which must not touch a queue of the loop.
    def send(burst: list[int] | None) -> None:
        loop.call_soon_threadsafe(new.put_nowait, burst)

    future = _begin(engine, served, tokens, send, sampling)
    text = Detokeniser(engine.backbone, stops, sampling.get("stop_token_ids", ()))
    try:
        while (burst := await new.get()) is not None:
            for piece in text.add(burst):
                yield piece
            if text.stopped:
                return
        yield text.rest(future.result())
    finally:
        future.cancel()


def _begin(
    engine: Engine,
    served: Served,
    tokens: TextOrTokens,
    send: Callable[[list[int] | None], None],
    sampling: dict[str, Any],
) -> "Future[Written]":
    future = engine.generate(served, tokens, stream=send, **sampling)
    # The engine sends the last tokens before it settles the future, so None always comes last.
    future.add_done_callback(lambda _: send(None))
    return future


def _label_scores(
    engine: Engine, served: Served, tokens: TextOrTokens, timeout: float | None
) -> "Future[Any]":
    """A head's classes, or the likelihoods of the label words."""
    if served.classes:
        return engine.classify(served, tokens, timeout=timeout)
    return engine.score(served, tokens, served.labels, timeout=timeout)


def _label(
    engine: Engine,
    served: Served,
    answer: Scored | Classified,
    stops: Sequence[str],
    sampling: dict[str, Any],
) -> Piece:
    choice = Choice(**{name: sampling[name] for name in Choice._fields if name in sampling})
    text = served.labels[choice.of(answer[0])]
    tokens = engine.backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Piece(text[: first_stop(text, stops)], tokens, "stop")


class Detokeniser:
    """The text of one answer, whose tokens come a few at a time."""

    def __init__(self, backbone: Backbone, stops: Sequence[str], stop_token_ids: Sequence[int]):
        self._backbone, self._stops = backbone, stops
        self._ends = (*backbone.config.eos_token_ids, *stop_token_ids)
        self._tokens: list[int] = []
        self._sent = ""
        self.stopped = False
        """Whether a stop sequence has ended it."""

    def add(self, burst: list[int]) -> Iterator[Piece]:
        """The text that no later token changes, if there is more of it now."""
        self._tokens += burst
        text = self._decoded()
        end = first_stop(text, self._stops)
        if end is not None:
            self.stopped = True
            yield Piece(text[len(self._sent) : end], list(self._tokens), "stop")
            return
        safe = text[: len(text) - unsure(text, self._stops)]
        if len(safe) > len(self._sent):
            yield Piece(safe[len(self._sent) :], list(self._tokens))
            self._sent = safe

    def rest(self, written: Written) -> Piece:
        """The last piece of an answer that no stop sequence has ended."""
        self._tokens = written.tokens.tolist()
        text = self._decoded()
        finish = "stop" if self._tokens and self._tokens[-1] in self._ends else "length"
        return Piece(text[len(self._sent) :], self._tokens, finish, written.log_probs.tolist())

    def _decoded(self) -> str:
        # All tokens and not the new ones: the text of a token depends on those before it.
        return self._backbone.tokenizer.decode(self._tokens, skip_special_tokens=True)


def unsure(text: str, stops: Sequence[str]) -> int:
    """How many of the last letters may yet become something else: a stop, or half a letter."""
    # Tokenizers decode a letter whose bytes are not all there yet as U+FFFD.
    half = len(text) - len(text.rstrip("\ufffd"))
    begun = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return max([half, *begun])
