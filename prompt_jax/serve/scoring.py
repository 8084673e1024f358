"""Requests that are answered by reading: likelihoods of candidates, what a head says, a vector.

The programs first, then the batches in which they run.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.layers import NEVER
from prompt_jax.data import pad
from prompt_jax.forward import PromptedModel, at_places
from prompt_jax.generate.scoring import score_candidates
from prompt_jax.serve.bank import PLAIN_SLOT, Bank, DeviceLeaves, rows_of
from prompt_jax.serve.programs import Lane, Programs
from prompt_jax.serve.prompts import Served
from prompt_jax.serve.requests import CandidateTokens, Kind, Request
from prompt_jax.serve.sampling import Likeliest, Written

Batch: TypeAlias = tuple[np.ndarray, ...]
"""What a program reads of a batch beside its slots."""


# The model is an argument: a closure would bake its weights into the program.
def read_rows(
    model: PromptedModel,
    leaves: DeviceLeaves,
    slots: Int[Array, " B"],
    *inputs: Array,
    read: Callable[..., Array],
) -> Float[Array, "B N"]:
    """What `read(model, *inputs)` gives where every row has its own prompt."""
    return read(dataclasses.replace(model, injection=rows_of(leaves, slots)), *inputs)


def class_log_probs(
    model: PromptedModel,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    classes: Int[Array, " B"],
) -> Float[Array, "B C"]:
    """The log-probability of every class by every row's own head, of which a row has so many."""
    return _own_log_probs(model.class_logits(tokens, mask)[:, None], classes)[:, 0]


def tag_log_probs(
    model: PromptedModel,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    classes: Int[Array, " B"],
) -> Float[Array, "B N"]:
    """The log-probability of every tag at every token by every row's own head, T * C."""
    return _own_log_probs(model.token_logits(tokens, mask), classes).reshape(len(tokens), -1)


def _own_log_probs(
    logits: Float[Array, "B T C"], classes: Int[Array, " B"]
) -> Float[Array, "B T C"]:
    # A head of fewer classes than the slot has room for has logits of zero weights behind its own.
    real = jnp.arange(logits.shape[2])[None, None, :] < classes[:, None, None]
    return jax.nn.log_softmax(jnp.where(real, logits, NEVER), axis=-1)


def span_log_probs(
    model: PromptedModel, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B N"]:
    """The log-probability of every token as the first, and as the last one of the answer, 2 * T."""
    # The slot may have room for more outputs than the two of such a head.
    ends = at_places(model.token_logits(tokens, mask)[..., :2], mask)
    return jax.nn.log_softmax(ends, axis=-1).reshape(len(tokens), -1)


def mean_states(
    model: PromptedModel, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """The mean of the states of every text's own tokens, float32."""
    # In float32: the 8 bits of bfloat16 are too few to add up the tokens of a text.
    states = model.text_states(tokens, mask).astype(jnp.float32)
    weight = mask[:, :, None].astype(jnp.float32)
    return (states * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)


def token_log_probs(
    model: PromptedModel,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    room: Float[Array, "B K"],
) -> Float[Array, "B N"]:
    """How likely every token is behind those before it, and which K are likeliest, T * (1 + 2K).

    Of a decoder, which predicts what it reads. A place tells of the token behind it.
    """
    states, targets = model.text_states(tokens, mask), jnp.roll(tokens, -1, axis=1)

    def at(place: tuple[Array, Array]) -> Float[Array, "B M"]:
        state, target = place
        logits = model.apply(state[:, None], method="words")[:, 0]
        log_probs = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        top, ids = jax.lax.top_k(log_probs, room.shape[1])
        target_log_prob = jnp.take_along_axis(log_probs, target[:, None], axis=1)
        # Ids as float32 are exact: no vocabulary has 2**24 words.
        return jnp.concatenate([target_log_prob, top, ids.astype(jnp.float32)], axis=1)

    # One place of all rows at a time: logits of all places would be [B, T, V].
    rows = jax.lax.map(at, (states.swapaxes(0, 1), targets.T))
    return rows.swapaxes(0, 1).reshape(len(tokens), -1)


class Scored(NamedTuple):
    """How likely each candidate is as the answer to a text."""

    log_likelihoods: Float[np.ndarray, " C"]
    digest: str
    """The digest of the prompt that answered, here and below; empty of the plain model."""


class Classified(NamedTuple):
    """What a prompt's head says of a text."""

    log_probs: Float[np.ndarray, " C"]
    digest: str


class Marked(NamedTuple):
    """What a prompt's head says of the tokens of a text."""

    log_probs: Float[np.ndarray, "R N"]
    """[T, C] of every tag at every token, or [2, T] of every token as an end of a span."""
    digest: str


class Embedded(NamedTuple):
    """A text as a vector."""

    vector: Float[np.ndarray, " D"]
    digest: str


def text_written(places: Float[np.ndarray, "T N"], request: Request) -> Written:
    """The tokens of a text as `token_log_probs` tells of them; of the first, NaN and no others."""
    top = request.sampling.top_logprobs
    places = np.concatenate([np.full((1, places.shape[1]), np.nan, np.float32), places[:-1]])
    log_probs, ids = np.split(places[:, 1:], 2, axis=1)
    ids = np.nan_to_num(ids[:, :top], nan=-1).astype(np.int32)
    likeliest = Likeliest(ids, log_probs[:, :top].copy())
    return Written(request.tokens, places[:, 0].copy(), likeliest, request.served.digest)


READ = {
    "score": score_candidates, "classify": class_log_probs, "tag": tag_log_probs,
    "span": span_log_probs, "embed": mean_states, "read": token_log_probs,
}  # fmt: skip
ANSWERS = {
    "score": Scored, "classify": Classified, "tag": Marked, "span": Marked, "embed": Embedded,
}  # fmt: skip
"""By the operation of a request, as `READ`."""


PROGRAMS: dict[Kind, jax.stages.Wrapped] = {}
"""Of this process, a function for each kind."""


def program_of(kind: Kind) -> jax.stages.Wrapped:
    """`read_rows` of a kind; JAX compiles it for every size of a batch."""
    program = PROGRAMS.get(kind)
    if program is None:
        # A function of its own: JAX lets go of what it has compiled with its function alone.
        program = jax.jit(functools.partial(read_rows, read=READ[kind.operation]))
    return PROGRAMS.setdefault(kind, program)


def forget(kind: Kind) -> None:
    """Frees the programs of a kind; a batch of it would compile them anew."""
    PROGRAMS.pop(kind, None)


def own_part(row: Float[np.ndarray, " N"], request: Request) -> Float[np.ndarray, "..."]:
    """What is the request's own of the row that it has in a batch, without padding."""
    length, classes = len(request.tokens), request.served.classes
    match request.kind.operation:
        case "score":
            return row[: len(request.piece.tokens)]
        case "classify":
            return row[:classes]
        case "tag":
            return row.reshape(request.kind.length, -1)[:length, :classes]
        case "span":
            return row.reshape(2, -1)[:, :length]
        case "read":
            return row.reshape(request.kind.length, -1)[:length]
    return row


class Scorer:
    """Reads requests in batches and answers them, all from the thread of an engine.

    Args:
      model: without a prompt.
      programs: what is compiled.
      sizes: of batches, growing.
    """

    def __init__(self, model: PromptedModel, bank: Bank, programs: Programs, sizes: Sequence[int]):
        self._model, self._bank, self._programs = model, bank, programs
        self._sizes, self._filler = tuple(sizes), model.module.config.filler
        self.requests = self.batches = self.mixed = 0

    def lanes(self, kind: Kind, part: frozenset[str]) -> list[Lane]:
        """The lanes of a kind by the sizes of its batches, growing.

        No batch has more tokens of candidates than the largest has of texts, since
        small requests wait for large ones.
        """
        room = self._sizes[-1] * kind.length // max(1, kind.candidates * kind.tokens)
        sizes = [size for size in self._sizes if size <= max(room, self._sizes[0])]
        return [Lane(kind, part, size) for size in sizes]

    def most(self, kind: Kind) -> int:
        """Requests of a kind that can be read at once, whichever leaves they need."""
        sizes = [
            [lane.rows for lane in self.lanes(kind, part) if self._programs.has(lane)]
            for part in self._bank.parts
        ]
        return min((rows[-1] for rows in sizes if rows), default=self._sizes[0])

    def read(self, requests: Sequence[Request], poison: Callable[[Request], None]) -> None:
        """Answers requests of one kind, or reads the next piece of each."""
        kind = requests[0].kind
        contents = {request.served.content for request in requests}
        slots = [self._bank.place(request.served, contents) for request in requests]
        # After the last prompt is in its place: a slot that changes gives the bank new arrays.
        part = self._bank.part_of(path for r in requests for path in r.served.leaves)
        leaves = self._bank.leaves_with(part)
        lanes = [lane for lane in self.lanes(kind, part) if lane.rows >= len(requests)]
        # Its program is there, since no more are taken than `most`.
        size = next(filter(self._programs.has, lanes), lanes[0]).rows
        # What fills up a batch repeats its first row; nobody reads those answers.
        filling = size - len(requests)
        rows = [*requests, *[requests[0]] * filling]
        places = np.array([*slots, *[slots[0]] * filling], np.int32)
        values = program_of(kind)(self._model, leaves, places, *self._batch(rows))
        self.requests, self.batches = self.requests + len(requests), self.batches + 1
        self.mixed += len(contents) > 1
        for request, row in zip(requests, np.asarray(values), strict=False):
            part = own_part(row, request)
            if not np.isfinite(part).all():
                poison(request)
            elif kind.operation == "read":
                request.settle(text_written(part, request))
            else:
                # Copied, since a view would keep the numbers of the whole batch alive.
                request.scores.append(part.copy())
                if len(request.scores) >= len(request.candidates):
                    answer = np.concatenate(request.scores)
                    request.settle(ANSWERS[kind.operation](answer, request.served.digest))

    def _batch(self, rows: Sequence[Request]) -> Batch:
        """The texts of requests of one kind, and what else is read with them."""
        kind = rows[0].kind
        inputs = pad([row.tokens for row in rows], kind.length, self._filler)
        if kind.operation in ("classify", "tag"):
            inputs += (np.array([row.served.classes for row in rows], np.int32),)
        elif kind.operation == "read":
            inputs += (np.zeros((len(rows), kind.candidates), np.float32),)
        elif kind.operation == "score":
            inputs += _stacked([row.piece for row in rows], kind)
        return inputs

    def compile(self, lane: Lane) -> int:
        """Compiles a kind of batch at one size, in any thread; how many programs that is.

        jit finds them by their shapes when a batch comes.
        """
        kind = lane.kind
        empty = np.zeros((kind.candidates, kind.tokens), np.int32)
        compared = [CandidateTokens(empty, empty == 0, False)]
        token = np.full(1, self._filler, np.int32)
        request = Request(Served(classes=1), kind, token, candidates=compared)
        slots = np.full(lane.rows, PLAIN_SLOT, np.int32)
        inputs = self._batch([request] * lane.rows)
        program_of(kind).lower(self._model, self._bank.shapes(lane.part), slots, *inputs).compile()
        return 1

    def usual_kinds(self, lengths: Sequence[int]) -> list[Kind]:
        """Two candidates of two tokens, and an embedding."""
        config = self._model.module.config
        tokens = 1 if config.is_encoder else 2
        kinds = [Kind("embed", length) for length in lengths]
        if config.word_head:
            kinds += [Kind("score", length, 2, tokens) for length in lengths]
        return kinds


def _stacked(
    rows: Sequence[CandidateTokens], kind: Kind
) -> tuple[Int[np.ndarray, "B C U"], Bool[np.ndarray, "B C U"], Int[np.ndarray, "B C"]]:
    """Candidates of all rows, where they are real, and what divides their scores."""
    shape = (len(rows), kind.candidates, kind.tokens)
    tokens, real = np.zeros(shape, np.int32), np.zeros(shape, bool)
    divisor = np.ones(shape[:2], np.int32)  # Of padding too: 0 / 0 is NaN and would look poisoned.
    for i, candidates in enumerate(rows):
        count = len(candidates.tokens)
        tokens[i, :count], real[i, :count] = candidates.tokens, candidates.real
        if candidates.normalize:
            divisor[i, :count] = candidates.real.sum(1)
    return tokens, real, divisor
