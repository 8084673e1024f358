"""Many threads ask, one answers: rows of different prompts share a batch of one frozen model.

Prompts live on the host by name; a bank of slots on the device has those in use. Every shape that a
batch may have is compiled once, at warm-up or when it is first met; putting, replacing and removing
prompts changes numbers and compiles nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from prompt_jax.answers.ensemble import check_weights
from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.forward import Injection
from prompt_jax.forward.places import check_places
from prompt_jax.prompts import Prompt
from prompt_jax.serve.encoding import TextOrTokens
from prompt_jax.serve.ensembles import Ensembled, ensembled
from prompt_jax.serve.errors import PromptRefusedError, TooManyPromptsError
from prompt_jax.serve.prompts import Served, example, injection_for
from prompt_jax.serve.requests import HEADS, WRITE, Kind, Request
from prompt_jax.serve.running import Running
from prompt_jax.serve.sampling import Sampling, Written
from prompt_jax.serve.scoring import Classified, Embedded, Marked, Scored
from prompt_jax.serve.sizes import Sizes
from prompt_jax.serve.slots import layout_of


class Engine(Running):
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
        sizes = Sizes(
            slots=slots, rows=tuple(rows), lengths=tuple(lengths), max_new_tokens=max_new_tokens,
            places=places, window=window, queue=queue, burst=burst,
        )  # fmt: skip
        prompts = prompts or {}
        try:
            injections = [injection_for(backbone, prompt, False) for prompt in prompts.values()]
            injections += [example(backbone, method) for method in room]
            layout = layout_of(injections or [Injection()])
        except InputError as error:
            raise PromptRefusedError(str(error)) from error
        # For the largest row that can come, so that no later request exceeds the context.
        virtual = layout.get("prompt", (0,))[0]
        writes = 0 if backbone.config.is_encoder else max_new_tokens
        backbone.check_context(virtual, sizes.lengths[-1], writes)
        super().__init__(backbone, sizes, layout, prompts)

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
        if len({served.content for served in members}) > self.slots:
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

    def mark(
        self, prompt: str | Served, text: TextOrTokens, *, timeout: float | None = None
    ) -> "Future[Marked]":
        """What the prompt's own head says of every token: its tags, or the ends of a span.

        `prompt_jax.answers.tags` and `spans` read words from it.

        Raises:
          InputError: it has none for tags or spans; or as `score`.
        """
        served, (tokens, length) = self.version(prompt), self._inputs.encode(text)
        served.check_marks("tagging", "span")
        request = Request(served, Kind(HEADS[served.head], length), tokens, timeout)
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
                "writes nothing; ask its head (classify, mark), or answer by prompt-jax predict"
            )
        tokens, _ = self._inputs.encode(text)
        request = Request(served, WRITE, tokens, timeout, sampling=sampling)
        return self._submit([request])[0]

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, requests: list[Request]) -> list[Future[Any]]:
        for request in requests:
            # Here, since a prompt without its place gives NaN and would be taken for a bad one.
            check_places(request.served.place, self.backbone, [request.tokens], ["the text"])
        return self._worker.submit(requests)
