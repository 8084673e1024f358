"""A request: what it asks, checked and in tokens, and the fair queue in which it waits."""

import dataclasses
import functools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Int, Int32, Integer

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.data import encode_labels, pad
from prompt_jax.data.files import whole
from prompt_jax.data.texts import tokenized
from prompt_jax.serve.errors import DeadlineError, QueueFullError, TooLongError
from prompt_jax.serve.prompts import Served
from prompt_jax.serve.sampling import TOP, Sampling
from prompt_jax.tasks import Text
from prompt_jax.trees import Tokenizer

TextOrTokens: TypeAlias = str | Sequence[int] | Integer[np.ndarray, " T"]
"""Words, or the tokens of them."""
Tokens: TypeAlias = Int32[np.ndarray, " T"]
LABEL_SETS = 1024
"""Sets of label words whose tokens are remembered."""


class Kind(NamedTuple):
    """Requests of one kind can be answered by one program."""

    operation: Literal["score", "classify", "embed", "read", "write"]
    length: int = 0
    """T, to which texts are padded."""
    candidates: int = 0
    """C, to which the candidates of a request are padded; of `read`, K of the likeliest tokens."""
    tokens: int = 0
    """U, to which the tokens of a candidate are."""


WRITE = Kind("write")


class CandidateTokens(NamedTuple):
    """The answers that a request compares, padded to its kind."""

    tokens: Int[np.ndarray, "C U"]
    real: Bool[np.ndarray, "C U"]
    normalize: bool
    """Whether a likelihood is divided by the number of tokens."""


@dataclasses.dataclass(eq=False)
class Caller:
    """Who asks."""

    key: str = ""
    """The name of its key; empty without keys."""


CALLER: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039 (says nobody)
"""Who asks in this context: a thread, or a task of an event loop."""


@dataclasses.dataclass(eq=False)
class Request:
    """One text under one prompt, and the future of its answer."""

    served: Served
    kind: Kind
    tokens: Tokens
    timeout: float | None = None
    """Seconds from `arrived` on; then it is late."""
    candidates: CandidateTokens | None = None
    """What a request of kind `score` compares."""
    sampling: Sampling = Sampling()
    """How a request of kind `write` is answered."""
    arrived: float = dataclasses.field(default_factory=time.monotonic)
    caller: Caller = dataclasses.field(default_factory=CALLER.get)
    future: "Future[Any]" = dataclasses.field(default_factory=Future)

    def settle(self, answer: object = None, error: Exception | None = None) -> None:
        """Fulfils the future, unless its caller has cancelled it or has an answer already."""
        # Once a future runs it cannot be cancelled, so setting its result cannot race with that.
        if self.future.done() or not self.future.set_running_or_notify_cancel():
            return
        if error is None:
            self.future.set_result(answer)
        else:
            self.future.set_exception(error)

    def is_over(self) -> bool:
        """Whether nobody waits any more, since the caller cancelled it or it is late."""
        if self.future.cancelled():
            return True
        waited = time.monotonic() - self.arrived
        if self.timeout is None or waited < self.timeout:
            return False
        self.settle(
            error=DeadlineError(
                f"no answer within {waited:.3f} s; give it more time (timeout), or ask later"
            )
        )
        return True


Waits: TypeAlias = Callable[[Request], bool]
"""Whether a request cannot be answered yet."""


class Queue:
    """Requests that wait: those of one kind together, and every caller in its turn.

    One who asks a thousand times at once keeps out no other. The requests of one caller are taken
    as they came, whatever their prompts: who names many prompts has no more turns for that.

    One lock of the engine's guards it.
    """

    def __init__(self, limit: int):
        self.limit, self.count = limit, 0
        self.waiting: OrderedDict[Kind, OrderedDict[str, deque[Request]]] = OrderedDict()
        """By kind and key of the caller, whose turn is next first."""

    def put(self, requests: list[Request]) -> None:
        """Takes all of these or none.

        Raises:
          QueueFullError: there is no room for all.
        """
        if self.count + len(requests) > self.limit:
            raise QueueFullError(
                f"{self.count} requests wait and {self.limit} may; try again in a moment, or give "
                "the engine a longer queue"
            )
        for request in requests:
            turns = self.waiting.setdefault(request.kind, OrderedDict())
            turns.setdefault(request.caller.key, deque()).append(request)
        self.count += len(requests)

    def next_batch(
        self, size: int, capacity: int, held: Collection[str], window: float, waits: Waits
    ) -> tuple[list[Request], float]:
        """The next requests to read: those of the kind that somebody has waited for longest.

        Returns:
          None of them where it is better to wait for others, and for how many seconds.
        """
        # Requests to write are left out: the writer takes them as its places get free.
        oldest = {
            kind: min(requests[0].arrived for requests in turns.values())
            for kind, turns in self.waiting.items()
            if kind != WRITE
        }
        for kind in sorted(oldest, key=oldest.__getitem__):
            left = oldest[kind] + window - time.monotonic()
            # A full batch gains nothing by waiting for others.
            if window and left > 0 and sum(map(len, self.waiting[kind].values())) < size:
                return [], left
            batch = self.take(kind, size, capacity, held, waits)
            if batch:
                return batch, 0.0
        return [], 0.0

    def take(
        self, kind: Kind, size: int, capacity: int, held: Collection[str], waits: Waits
    ) -> list[Request]:
        """Requests of a kind, one of each caller in turn.

        Args:
          size: how many at most.
          capacity: different prompts that there is room for, those of `held` among them; requests
            of more prompts wait on.
          held: digests of prompts that are there already and stay.
          waits: whether a request has to wait on; asked about one of each prompt.
        """
        turns, room = self.waiting.get(kind, OrderedDict()), capacity - len(held)
        batch: list[Request] = []
        over: list[Request] = []
        new: set[str] = set()
        skipped: set[str] = set()

        def ready(requests: Iterable[Request]) -> Iterator[Request]:
            """Those of a caller that need not wait on."""
            for request in requests:
                digest = request.served.digest
                costs = bool(digest) and digest not in new and digest not in held
                # First of all, so that those that wait for a program are told that they are late.
                if request.is_over():
                    over.append(request)
                elif digest in skipped:
                    continue
                elif (costs and len(new) >= room) or waits(request):
                    skipped.add(digest)
                else:
                    new.update([digest] if costs else [])
                    yield request

        callers = deque((key, ready(requests)) for key, requests in turns.items())
        while callers and len(batch) < size:
            key, requests = callers.popleft()
            request = next(requests, None)
            if request is not None:
                batch.append(request)
                callers.append((key, requests))
                turns.move_to_end(key)
        self._forget(kind, {*batch, *over})
        return batch

    def _forget(self, kind: Kind, requests: Collection[Request]) -> None:
        turns = self.waiting.get(kind, OrderedDict())
        for key, queued in list(turns.items()) if requests else ():
            turns[key] = deque(request for request in queued if request not in requests)
            # `next_batch` asks every kind for its oldest request, which an empty one does not have.
            if not turns[key]:
                del turns[key]
        if not turns:
            self.waiting.pop(kind, None)
        self.count -= len(requests)

    def drain(self) -> list[Request]:
        """All requests, which wait no more."""
        requests = [
            request
            for turns in self.waiting.values()
            for queued in turns.values()
            for request in queued
        ]
        self.waiting.clear()
        self.count = 0
        return requests


class Inputs:
    """Checks what callers give and makes tokens of it, for one backbone.

    Args:
      lengths: tokens that texts are padded to, growing.
    """

    def __init__(self, backbone: Backbone, lengths: Sequence[int]):
        self._backbone, self._lengths = backbone, tuple(lengths)
        self._fills_masks = backbone.config.is_encoder
        # A client asks for the same label words in request after request.
        self._labels = functools.lru_cache(LABEL_SETS)(self._encode)

    def encode(self, text: TextOrTokens) -> tuple[Tokens, int]:
        """The tokens of a text, and the length that it is padded to.

        Raises:
          TooLongError: more tokens than any of `lengths`.
          InputError: no text, or the backbone has no tokenizer for it.
        """
        if isinstance(text, str):
            words = text if isinstance(text, Text) else whole(text)
            ((text,), _) = tokenized(self._tokenizer("text"), [words])
        tokens = self._checked("a text", text)
        for length in self._lengths:
            # Lengths grow, so the first one that fits is the shortest.
            if len(tokens) <= length:
                return tokens, length
        raise TooLongError(
            f"the text has {len(tokens)} tokens and {self._lengths[-1]} is the most; shorten it, "
            "or give the engine greater lengths"
        )

    def scoring(
        self,
        text: TextOrTokens,
        candidates: Sequence[TextOrTokens],
        length_normalize: bool,
        place: str = "",
    ) -> tuple[Kind, Tokens, CandidateTokens]:
        """The kind of a request for scores, its tokens and its candidates.

        Args:
          place: of a candidate to its text, see `Served.target_place`; empty is the backbone's.

        Raises:
          TooLongError: more tokens than any of `lengths`.
          InputError: no text, no candidates, or not what a model that fills masks can do.
        """
        labels = all(isinstance(candidate, str) for candidate in candidates)
        encode = self._labels if labels else self._encode
        count, padded, real = encode(tuple(candidates), place)
        tokens, length = self.encode(text)
        if self._fills_masks:
            self._check_cloze(tokens, real)
        kind = Kind("score", length, count, padded.shape[1])
        return kind, tokens, CandidateTokens(padded, real, length_normalize)

    def reading(self, text: TextOrTokens, top_logprobs: int) -> tuple[Kind, Tokens]:
        """The kind of a request for the log-probabilities of a text, and its tokens.

        Raises:
          InputError: of a model that does not predict what it reads; or as `encode`.
        """
        if self._backbone.target_place != "behind":
            raise InputError(
                f"backbone {self._backbone.name!r} reads a text without predicting it, so the text "
                "has no log-probabilities; leave out echo, or serve a decoder"
            )
        if not 0 <= top_logprobs <= TOP:
            raise InputError(f"top_logprobs is 0 to {TOP}, got {top_logprobs}")
        self._backbone.check_word_head()
        tokens, length = self.encode(text)
        most = self._backbone.config.vocab_size
        return Kind("read", length, min(_step(max(top_logprobs, 1)), most)), tokens

    def label_kinds(self, served: Served) -> list[Kind]:
        """The kinds of requests that choose among a prompt's label words: one a length of texts.

        None where they cannot be scored; a request would be told why.
        """
        if served.classes or not served.labels:
            return []
        try:
            count, padded, _ = self._labels(served.labels, served.target_place)
        except InputError:
            return []
        return [Kind("score", length, count, padded.shape[1]) for length in self._lengths]

    def _encode(
        self, candidates: tuple[TextOrTokens, ...], place: str
    ) -> tuple[int, Int32[np.ndarray, "C U"], Bool[np.ndarray, "C U"]]:
        """What C is padded to, the tokens of candidates, and where they are real."""
        self._backbone.check_word_head()
        if not candidates:
            raise InputError("there are no candidates; give words, or lists of tokens")
        words = [candidate for candidate in candidates if isinstance(candidate, str)]
        encoded = iter(self._label_tokens(words, place) if words else ())
        rows = [
            self._checked("a candidate", next(encoded) if isinstance(row, str) else row)
            for row in candidates
        ]
        longest = max(map(len, rows))
        # One token is scored as the text is read, with no step of decoding. Others are not padded
        # beyond what a text may have.
        room = 1 if longest == 1 else min(_step(longest), max(longest, self._lengths[-1]))
        padded = pad(rows, room, self._backbone.config.filler)
        return _step(len(rows)), *padded

    def _label_tokens(self, words: list[str], place: str) -> list[np.ndarray]:
        tokenizer, place = self._tokenizer("candidate"), place or self._backbone.target_place
        return encode_labels(tokenizer, whole(words), self._lengths[-1], place=place)

    def _tokenizer(self, subject: str) -> Tokenizer:
        if self._backbone.tokenizer is None:
            raise InputError(
                f"backbone {self._backbone.name!r} has no tokenizer; give the tokens of a {subject}"
            )
        return self._backbone.tokenizer

    def _checked(self, subject: str, text: object) -> Tokens:
        tokens, size = np.asarray(text), self._backbone.config.vocab_size
        if tokens.ndim == 1 and not tokens.size:
            raise InputError(f"{subject} has no tokens; give at least one")
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise InputError(f"{subject} is words, or a list of tokens, got {str(text)[:50]!r}")
        if tokens.min() < 0 or tokens.max() >= size:
            raise InputError(
                f"tokens are 0 to {size - 1}, got {tokens.min()} to {tokens.max()} in {subject}"
            )
        return tokens.astype(np.int32)

    def _check_cloze(self, tokens: Tokens, real: Bool[np.ndarray, "C U"]) -> None:
        masks = int((tokens == self._backbone.config.mask_token_id).sum())
        longest = real.sum(1).max()
        if masks != 1 or longest > 1:
            raise InputError(
                f"backbone {self._backbone.name!r} fills one mask with one token, got {masks} "
                f"masks and a candidate of {longest} tokens"
            )


def _step(count: int) -> int:
    """The first of 2, 8, 32, 128, ... that is not less.

    Few shapes serve all sets of candidates. On two CPU cores a shape takes seconds to compile, for
    every size of batch, while four times the candidates take 1.5 times as long to read: most of a
    batch's time goes to its texts.
    """
    return 2 * 4 ** ((count - 1).bit_length() // 2)
