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
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.prompts import Served
from prompt_jax.serve.sampling import Written
from prompt_jax.serve.scoring import Classified, Scored
from prompt_jax.serve.spelling import Speller, Token


class Piece(NamedTuple):
    """Some words of an answer."""

    text: str
    finish: str | None = None
    """`stop` or `length`, in the last piece."""
    tokens: tuple[Token, ...] = ()
    """Those since the piece before, where `top_logprobs` asks for them."""
    digest: str = ""
    """The digest of the prompt that answers."""
    read: int = 0
    """Tokens of the text."""
    written: int = 0
    """Tokens of the answer so far."""


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
    tokens: Sequence[int],
    stops: Sequence[str] = (),
    top_logprobs: int | None = None,
    **sampling: Any,
) -> Iterator[Piece]:
    """An answer as it is written; a reader that stops listening stops the writing.

    A label word comes in one piece, whatever `max_new_tokens` is.

    Args:
      stops: the answer ends before the first of these.
      top_logprobs: likeliest tokens to tell beside each; None tells no tokens.
    """
    served = engine.version(prompt)
    if served.labels:
        request = _label_scores(engine, served, tokens, sampling.get("timeout"))
        try:
            piece = _label(engine, served, request.result(), stops, top_logprobs, sampling)
            yield piece._replace(read=len(tokens))
        finally:
            request.cancel()
        return
    new: queue.SimpleQueue[Written | None] = queue.SimpleQueue()
    sampling["top_logprobs"] = top_logprobs or 0
    future = _begin(engine, served, tokens, new.put, sampling)
    ends = sampling.get("stop_token_ids", ())
    text = Detokeniser(engine.backbone, len(tokens), stops, ends, top_logprobs)
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
    tokens: Sequence[int],
    stops: Sequence[str] = (),
    top_logprobs: int | None = None,
    **sampling: Any,
) -> AsyncGenerator[Piece, None]:
    """As `pieces`, for an event loop."""
    served = engine.version(prompt)
    if served.labels:
        request = _label_scores(engine, served, tokens, sampling.get("timeout"))
        try:
            piece = _label(
                engine, served, await asyncio.wrap_future(request), stops, top_logprobs, sampling
            )
            yield piece._replace(read=len(tokens))
        finally:
            request.cancel()
        return
    loop = asyncio.get_running_loop()
    new: asyncio.Queue[Written | None] = asyncio.Queue()

    # Tokens come from the thread of the engine, which must not touch a queue of the loop.
    def send(burst: Written | None) -> None:
        loop.call_soon_threadsafe(new.put_nowait, burst)

    sampling["top_logprobs"] = top_logprobs or 0
    future = _begin(engine, served, tokens, send, sampling)
    ends = sampling.get("stop_token_ids", ())
    text = Detokeniser(engine.backbone, len(tokens), stops, ends, top_logprobs)
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
    tokens: Sequence[int],
    send: Callable[[Written | None], None],
    sampling: dict[str, Any],
) -> "Future[Written]":
    future = engine.generate(served, tokens, stream=send, **sampling)
    # The engine sends the last tokens before it settles the future, so None always comes last.
    future.add_done_callback(lambda _: send(None))
    return future


def _label_scores(
    engine: Engine, served: Served, tokens: Sequence[int], timeout: float | None
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
    top_logprobs: int | None,
    sampling: dict[str, Any],
) -> Piece:
    choice = Choice(**{name: sampling[name] for name in Choice._fields if name in sampling})
    number = choice.of(answer[0])
    text = served.labels[number]
    ids = engine.backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = ()
    if top_logprobs is not None:
        # A label word comes in one piece, so it is one token here, and its rivals the other labels.
        log_probs = answer[0] - np.logaddexp.reduce(answer[0])
        best = [int(i) for i in np.argsort(-log_probs)[:top_logprobs]]
        rivals = tuple((served.labels[i], float(log_probs[i])) for i in best)
        tokens = (Token(text, float(log_probs[number]), rivals),)
    end = first_stop(text, stops)
    return Piece(text[:end], "stop", tokens, answer.digest, written=len(ids))


class Detokeniser:
    """The text of one answer, whose tokens come a few at a time.

    Args:
      read: tokens of the text that is answered.
      top_logprobs: likeliest tokens to tell beside each; None tells no tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        read: int,
        stops: Sequence[str],
        stop_token_ids: Sequence[int],
        top_logprobs: int | None = None,
    ):
        self._tokenizer, self._stops, self._read = backbone.tokenizer, stops, read
        self._ends = (*backbone.config.eos_token_ids, *stop_token_ids)
        self._speller = None if top_logprobs is None else Speller(backbone.tokenizer)
        self._tokens: list[int] = []
        self._spelled: list[Token] = []
        """Tokens that no piece has told yet."""
        self._sent = ""
        self.stopped = False
        """Whether a stop sequence has ended it."""

    def add(self, burst: Written) -> Iterator[Piece]:
        """The text that no later token changes, if there is more of it now."""
        for i, token in enumerate(burst.tokens.tolist()):
            self._take(burst, i)
            self._tokens.append(token)
            # Nothing is written behind the token that a stop sequence ends with.
            end = first_stop(self._decoded(), self._stops) if self._stops else None
            if end is not None:
                self.stopped = True
                yield self._piece(self._decoded()[:end], burst.digest, "stop")
                return
        text = self._decoded()
        safe = text[: len(text) - unsure(text, self._stops)]
        if len(safe) > len(self._sent):
            yield self._piece(safe, burst.digest)

    def rest(self, written: Written) -> Piece:
        """The last piece of an answer that no stop sequence has ended."""
        finish = "stop" if self._tokens and self._tokens[-1] in self._ends else "length"
        return self._piece(self._decoded(), written.digest, finish)

    def _take(self, burst: Written, i: int) -> None:
        if self._speller is not None:
            likeliest = zip(*(row[i].tolist() for row in burst.likeliest), strict=True)
            token, log_prob = int(burst.tokens[i]), float(burst.log_probs[i])
            self._spelled.append(self._speller.spell(token, log_prob, list(likeliest)))

    def _piece(self, text: str, digest: str, finish: str | None = None) -> Piece:
        """What is new of a text."""
        new, tokens = text[len(self._sent) :], tuple(self._spelled)
        self._sent, self._spelled = text, []
        return Piece(new, finish, tokens, digest, self._read, len(self._tokens))

    def _decoded(self) -> str:
        # All tokens and not the new ones: the text of a token depends on those before it.
        return self._tokenizer.decode(self._tokens, skip_special_tokens=True)


def unsure(text: str, stops: Sequence[str]) -> int:
    """How many of the last letters may yet become something else: a stop, or half a letter."""
    # Tokenizers decode a letter whose bytes are not all there yet as U+FFFD.
    half = len(text) - len(text.rstrip("\ufffd"))
    begun = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return max([half, *begun])
