"""Many threads ask, one answers: rows of different prompts share a batch of one frozen model.

Prompts live on the host by name; a bank of slots on the device has those in use. Every shape that a
batch may have is compiled once, at warm-up or when it is first met; putting, replacing and removing
prompts changes numbers and compiles nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from prompt_jax.answers.ensemble import check_weights
from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.forward.places import check_places
from prompt_jax.prompts import Prompt
from prompt_jax.serve.encoding import Inputs, TextOrTokens
from prompt_jax.serve.errors import EngineError, PromptRefusedError, TooManyPromptsError
from prompt_jax.serve.names import Names
from prompt_jax.serve.programs import Programs
from prompt_jax.serve.prompts import (
    Served,
    example,
    injection_for,
    layout_of,
    poisoned,
    served_as,
)
from prompt_jax.serve.requests import WRITE, Kind, Request
from prompt_jax.serve.sampling import Sampling, Written
from prompt_jax.serve.scoring import Classified, Embedded, Ensembled, Scored, ensembled
from prompt_jax.serve.worker import Sizes, Stats, Worker


class Engine:
    """Answers with any of many prompts over one frozen model, mixed in every batch.

    Close it, or use it as a context manager. A request names a prompt or hands on its record, see
    `version`; None is the plain model.

    Args:
      prompts: by name; more may come later, see `put`.
      room: methods that a slot has room for at their sizes, beside those of `prompts`: a prompt of
        up to so many virtual tokens, a LoRA of up to so high a rank.
      slots: prompts on the device at once, at least 2; others wait on the host, and the longest
        unused gives way.
      rows: sizes of batches; a batch has the smallest that holds it. The last one is the most.
      lengths: tokens that texts are padded to; the last one is the longest text.
      max_new_tokens: of a written answer at most.
      places: answers that are written at once.
      window: seconds that a request waits for others to share its batch.
      queue: requests that may wait.
      burst: tokens written between two looks at who waits.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: Mapping[str, Prompt] | None = None,
        *,
        room: Sequence[MethodConfig] = (),
        slots: int = 64,
        rows: Sequence[int] = (1, 8, 32),
        lengths: Sequence[int] = (32, 128),
        max_new_tokens: int = 64,
        places: int = 16,
        window: float = 0.002,
        queue: int = 1024,
        burst: int = 4,
    ):
        self._sizes = Sizes(
            slots=slots, rows=tuple(rows), lengths=tuple(lengths), max_new_tokens=max_new_tokens,
            places=places, window=window, queue=queue, burst=burst,
        )  # fmt: skip
        self.backbone = backbone
        self.lengths, self.slots = self._sizes.lengths, slots
        self.max_new_tokens = max_new_tokens
        prompts = prompts or {}
        try:
            injections = [injection_for(backbone, prompt, False) for prompt in prompts.values()]
            injections += [example(backbone, method) for method in room]
            self._layout = layout_of(injections or [Injection()])
        except InputError as error:
            raise PromptRefusedError(str(error)) from error
        # For the largest row that can come, so that no later request exceeds the context.
        virtual = self._layout.get("prompt", (0,))[0]
        writes = 0 if backbone.config.is_encoder else max_new_tokens
        backbone.check_context(virtual, self.lengths[-1], writes)
        self._model, self._inputs = PromptedModel.of(backbone), Inputs(backbone, self.lengths)
        self._names = Names()
        self.on_batch: Callable[[Sequence[Request]], None] = lambda requests: None
        """Called with the requests of every batch as it begins, in the thread of the engine."""
        self._warms = False
        for name, prompt in prompts.items():
            self.put(name, prompt)
        self._programs = Programs()
        self._worker = self._begin()

    def put(self, name: str, prompt: Prompt, *, allow_mismatch: bool = False) -> str:
        """Takes a prompt under a name, in place of an older one; requests from now on have it.

        Those before are answered by what the name stood for then; nothing is compiled.

        Returns:
          The digest that its answers will name.

        Raises:
          PoisonedPromptError: it holds NaN or inf.
          PromptRefusedError: of another backbone, larger than a slot, or not one row's alone.
        """
        served = served_as(name, prompt, self.backbone, self._layout, allow_mismatch)
        self._names.put(served)
        return served.digest

    def remove(self, name: str) -> None:
        """Forgets a name; requests that came before are still answered.

        Raises:
          UnknownPromptError: there is none of this name.
        """
        self._names.remove(name)

    @property
    def names(self) -> list[str]:
        """Names of all prompts, sorted."""
        return [served.reference for served in self._names.records]

    def version(self, prompt: str | Served | None) -> Served:
        """The record of what a name stands for now; a record stands for itself.

        Raises:
          UnknownPromptError: there is none of this name.
          PoisonedPromptError: its answers were NaN or infinite.
        """
        return self._names.version(prompt)

    @property
    def poisoned(self) -> frozenset[str]:
        """Digests of prompts whose answers were NaN or infinite; they are refused."""
        return self._names.poisoned

    def score(
        self,
        prompt: str | Served | None,
        text: TextOrTokens,
        candidates: Sequence[TextOrTokens],
        *,
        length_normalize: bool | None = None,
        timeout: float | None = None,
    ) -> "Future[Scored]":
        """The log-likelihood of every candidate as the answer, in nats.

        Args:
          prompt: a name or a record; None is the plain model.
          text: the input with its template filled, or its tokens.
          candidates: label words, or their tokens with EOS as `encode_targets` makes them.
          length_normalize: divide by the number of a candidate's tokens; None does as the prompt
            was evaluated.
          timeout: seconds until the future has a `DeadlineError` instead.

        Raises:
          UnknownPromptError, PoisonedPromptError: see `version`.
          TooLongError: more tokens than there is room for.
          QueueFullError: too many wait.
          EngineError: the engine is closed.
          InputError: no or empty candidates, or texts where the backbone has no tokenizer.
        """
        served = self.version(prompt)
        place = served.target_place
        normalize = served.length_normalize if length_normalize is None else length_normalize
        kind, tokens, compared = self._inputs.scoring(text, candidates, normalize, place)
        return self._submit([Request(served, kind, tokens, timeout, compared)])[0]

    def ensemble(
        self,
        prompts: Sequence[str | Served],
        text: TextOrTokens,
        candidates: Sequence[TextOrTokens],
        *,
        how: str = "average",
        weights: Sequence[float] | None = None,
        length_normalize: bool | None = None,
        timeout: float | None = None,
    ) -> "Future[Ensembled]":
        """What several prompts choose together among candidates, each in a row of its own.

        Args:
          prompts: names or records, at most as many as there are slots.

        Raises:
          TooManyPromptsError: more prompts than slots.
          InputError: another way, or wrong weights; or as `score`.
        """
        check_weights(how, weights, len(prompts))
        members = [self.version(prompt) for prompt in prompts]
        if len({served.digest for served in members}) > self.slots:
            raise TooManyPromptsError(
                f"the request names {len(prompts)} prompts and {self.slots} can be had at once; "
                "ask fewer, or give the engine more slots"
            )
        # All members score the same tokens, so the first one decides where a candidate stands.
        place = members[0].target_place
        normalize = length_normalize
        if normalize is None:  # Sums and means cannot be combined either.
            normalize = all(served.length_normalize for served in members)
        kind, tokens, compared = self._inputs.scoring(text, candidates, normalize, place)
        requests = [Request(served, kind, tokens, timeout, compared) for served in members]
        return ensembled(self._submit(requests), how, weights)

    def classify(
        self, prompt: str | Served, text: TextOrTokens, *, timeout: float | None = None
    ) -> "Future[Classified]":
        """The log-probability of every class by the prompt's own head.

        Raises:
          InputError: it has none; or as `score`.
        """
        served, (tokens, length) = self.version(prompt), self._inputs.encode(text)
        served.check_classifies()
        if not served.classes:
            raise InputError(
                f"prompt {served.reference!r} has no head; ask for the scores of label words "
                "(score)"
            )
        request = Request(served, Kind("classify", length), tokens, timeout)
        return self._submit([request])[0]

    def embed(
        self, prompt: str | Served | None, text: TextOrTokens, *, timeout: float | None = None
    ) -> "Future[Embedded]":
        """The mean of the model's last states over the tokens of a text, read under a prompt."""
        served, (tokens, length) = self.version(prompt), self._inputs.encode(text)
        request = Request(served, Kind("embed", length), tokens, timeout)
        return self._submit([request])[0]

    def read(
        self,
        prompt: str | Served | None,
        text: TextOrTokens,
        *,
        top_logprobs: int = 0,
        timeout: float | None = None,
    ) -> "Future[Written]":
        """How likely a decoder finds every token of a text behind those before it.

        Args:
          top_logprobs: likeliest tokens to tell at every place, up to 20.

        Raises:
          InputError: the backbone does not predict what it reads; or as `score`.
        """
        served = self.version(prompt)
        kind, tokens = self._inputs.reading(text, top_logprobs)
        sampling = Sampling(top_logprobs=top_logprobs)
        return self._submit([Request(served, kind, tokens, timeout, sampling=sampling)])[0]

    def generate(
        self,
        prompt: str | Served | None,
        text: TextOrTokens,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        min_new_tokens: int = 0,
        repetition_penalty: float = 1.0,
        stop_token_ids: Sequence[int] = (),
        top_logprobs: int = 0,
        stream: Callable[[Written], None] | None = None,
        timeout: float | None = None,
    ) -> "Future[Written]":
        """An answer in tokens, as `prompt_jax.generate.generate` writes it.

        Rows enter and leave the batch while others are being written.

        Args:
          stop_token_ids: beside the backbone's own ends, up to eight.
          top_logprobs: likeliest tokens to tell at every place, up to 20.
          stream: called with what is new as it comes, from the thread of the engine.

        Raises:
          InputError: a backbone that writes nothing, or numbers outside of their range; or as
            `score`.
        """
        sampling = Sampling(
            max_new_tokens, temperature, top_k, top_p, seed, min_new_tokens, repetition_penalty,
            tuple(stop_token_ids), top_logprobs, stream,
        )  # fmt: skip
        if self._worker.writer is None:
            raise InputError(f"backbone {self.backbone.name!r} only reads and writes no answers")
        self.backbone.check_word_head()
        sampling.check(self.max_new_tokens, self.backbone.config.vocab_size)
        served = self.version(prompt)
        if served.head:
            raise InputError(
                f"prompt {served.reference!r} answers by a trained head ({served.head}) and "
                "writes nothing; classify with it, or answer with it by prompt-jax predict"
            )
        tokens, _ = self._inputs.encode(text)
        request = Request(served, WRITE, tokens, timeout, sampling=sampling)
        return self._submit([request])[0]

    def _submit(self, requests: list[Request]) -> list[Future[Any]]:
        for request in requests:
            # Here, since a prompt without its place gives NaN and would be taken for a bad one.
            check_places(request.served.place, self.backbone, [request.tokens], ["the text"])
        return self._worker.submit(requests)

    def warm_up(self, kinds: Iterable[Kind] | None = None) -> int:
        """Waits until what batches will ask for is compiled, so that no request has to.

        Args:
          kinds: as `prepare` takes them.

        Returns:
          Programs compiled so far.

        Raises:
          EngineError: the engine is closed.
        """
        for end in self.prepare(kinds):
            end.result()
        self._worker.rehearse()
        return self.stats.shapes

    def prepare(self, kinds: Iterable[Kind] | None = None) -> "list[Future[None]]":
        """Begins to compile what batches will ask for, beside what is answered meanwhile.

        Args:
          kinds: None takes the label words of the prompts that are there, two candidates of two
            tokens for other scores, an embedding and, where prompts have heads, a class, at all
            lengths, and writing.

        Returns:
          The ends of it.

        Raises:
          EngineError: the engine is closed.
        """
        self._warms = True
        if kinds is None:
            prompts = self._names.records
            labelled = [kind for served in prompts for kind in self._inputs.label_kinds(served)]
            kinds = [*self._worker.usual_kinds(self.lengths), *labelled]
        return self._worker.prepare(dict.fromkeys(kinds))

    def prepare_for(self, served: Served) -> "list[Future[None]]":
        """Begins to compile for the label words of a prompt that joins, once `prepare` was asked.

        Returns:
          The ends of it; none where nothing is missing.
        """
        kinds = self._inputs.label_kinds(served) if self._warms else []
        return [end for end in self._worker.prepare(kinds) if not end.done()]

    @property
    def stats(self) -> Stats:
        """Counters since the start."""
        return self._worker.stats(prompts=len(self._names))

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._worker.alive

    @property
    def failed(self) -> bool:
        """Whether it came to an end by itself, and can begin again."""
        return self._worker.failed

    def restart(self) -> None:
        """Begins again after the engine came to an end by itself; prompts stay, counters do not.

        Raises:
          EngineError: it is alive, or was closed.
        """
        if not self.failed:
            raise EngineError("only an engine that came to an end by itself begins again")
        self._worker = self._begin()

    def _begin(self) -> Worker:
        return Worker(
            self._model, self._layout, self._sizes, self._programs, self._poison, self._taken
        )

    def _taken(self, requests: Sequence[Request]) -> None:
        self.on_batch(requests)

    def close(self) -> None:
        """Answers what waits and is being written, takes no more, and ends the thread."""
        self._worker.close()
        self._programs.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _poison(self, request: Request) -> None:
        self._names.poison(request.served)
        request.settle(error=poisoned(request.served))
