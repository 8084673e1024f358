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
from prompt_jax.config import InputError, MethodConfig, at_least
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.prompts import Prompt
from prompt_jax.serve.bank import Bank, layout_of
from prompt_jax.serve.ensembles import Ensembled, ensembled
from prompt_jax.serve.errors import EngineError, PromptRefusedError, TooManyPromptsError
from prompt_jax.serve.queue import Kind, Queue, Row
from prompt_jax.serve.reader import Classified, Embedded, Reader, Scored
from prompt_jax.serve.reading import profiles
from prompt_jax.serve.registry import Registry, example, injection_for, poisoned
from prompt_jax.serve.running import Running, Stats
from prompt_jax.serve.slots import PLAIN, Slots, Version
from prompt_jax.serve.texts import Texts
from prompt_jax.serve.worker import Worker
from prompt_jax.serve.writer import Writer, Written
from prompt_jax.serve.writing import How


class Engine:
    """Answers with any of many prompts over one frozen model, mixed in every batch.

    Close it, or use it as a context manager.

    Args:
      backbone: the frozen model.
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
        for name, sizes in {"rows": rows, "lengths": lengths}.items():
            if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
                raise InputError(f"{name} are sizes from 1 on that grow, got {list(sizes)}")
        at_least("slots", slots, 2, "one for what is read while others are written with")
        counts = {"max_new_tokens": max_new_tokens, "places": places}
        for name, count in {**counts, "queue": queue, "burst": burst}.items():
            at_least(name, count, 1)
        at_least("window", window, 0.0)
        self.backbone = backbone
        self.lengths, self.slots = tuple(lengths), slots
        self.max_new_tokens = max_new_tokens
        module = PromptedModel.of(backbone).module
        given = prompts or {}
        try:
            injections = [injection_for(backbone, prompt, False) for prompt in given.values()]
            injections += [example(backbone, method) for method in room]
            self._layout = layout_of(injections or [Injection()])
        except InputError as error:
            raise PromptRefusedError(str(error)) from error
        virtual = self._layout.get("prompt", (0,))[0]
        writes = 0 if backbone.config.is_encoder else max_new_tokens
        backbone.check_context(virtual, self.lengths[-1], writes)
        self._texts = Texts(backbone, lengths)
        self._registry = Registry(backbone, self._layout)
        for name, prompt in given.items():
            self.put(name, prompt)
        self._shapes: set[Any] = set()

        def begin() -> Running:
            bank = Slots(Bank(self._layout, slots + 1))
            shared = (module, backbone.params, bank, profiles(self._layout), self._shapes)
            reader = Reader(*shared, sizes=rows, window=window)
            writer = None
            if writes:
                sizes = {"places": places, "length": self.lengths[-1], "room": max_new_tokens}
                writer = Writer(*shared, **sizes, burst=burst)
            waiting = Queue(queue)
            worker = Worker(reader, writer, waiting, self._poison)
            return Running(bank, reader, writer, waiting, worker)

        self._begin = begin
        self._now = begin()

    def put(self, name: str, prompt: Prompt, *, allow_mismatch: bool = False) -> str:
        """Takes a prompt under a name, in place of an older one; requests from now on have it.

        Requests that came before are answered by what the name stood for then. Nothing is compiled
        and no request waits.

        Returns:
          The digest that its answers will name.

        Raises:
          PoisonedPromptError: it holds NaN or inf.
          PromptRefusedError: of another backbone, larger than a slot, or not one row's alone.
        """
        return self._registry.put(name, prompt, allow_mismatch)

    def remove(self, name: str) -> None:
        """Forgets a name; requests that came before are still answered.

        Raises:
          UnknownPromptError: there is none of this name.
        """
        self._registry.remove(name)

    @property
    def names(self) -> list[str]:
        """Of all prompts, sorted."""
        return self._registry.names()

    def version(self, name: str | None) -> Version:
        """What a name stands for now; None is the plain model.

        Raises:
          UnknownPromptError: there is none of this name.
          PoisonedPromptError: its answers were no numbers.
        """
        return self._registry.version(name)

    def score(
        self,
        prompt: str | None,
        text: str | Sequence[int],
        candidates: Sequence[str | Sequence[int]],
        *,
        length_normalize: bool = True,
        timeout: float | None = None,
    ) -> "Future[Scored]":
        """The log-likelihood of every candidate as the answer, in nats.

        Args:
          prompt: a name; None is the plain model.
          text: the input with its template filled, or its tokens.
          candidates: label words, or their tokens with EOS as `encode_targets` makes them.
          length_normalize: divide by the number of a candidate's tokens.
          timeout: seconds until the future has a `DeadlineError` instead.

        Raises:
          UnknownPromptError, PoisonedPromptError: see `version`.
          TooLongError: more tokens than there is room for.
          QueueFullError: too many wait.
          EngineError: the engine is closed.
          InputError: no or empty candidates, or texts where the backbone has no tokenizer.
        """
        version = self.version(prompt)
        return self._now.worker.submit(
            [version], *self._texts.scoring(text, candidates, length_normalize), timeout
        )[0]

    def ensemble(
        self,
        prompts: Sequence[str],
        text: str | Sequence[int],
        candidates: Sequence[str | Sequence[int]],
        *,
        how: str = "average",
        weights: Sequence[float] | None = None,
        length_normalize: bool = True,
        timeout: float | None = None,
    ) -> "Future[Ensembled]":
        """What several prompts choose together among candidates, each asked in a row of its own.

        Args:
          prompts: names, at most as many as there are slots.
          how, weights: as `prompt_jax.generate.combine` has them.

        Raises:
          TooManyPromptsError: more prompts than slots.
          InputError: another way, or wrong weights; or as `score`.
        """
        check_weights(how, weights, len(prompts))
        versions = [self.version(name) for name in prompts]
        if len({version.digest for version in versions}) > self.slots:
            raise TooManyPromptsError(
                f"the request names {len(prompts)} prompts and {self.slots} can be had at once; "
                "ask fewer, or give the engine more slots"
            )
        kind, tokens, asked = self._texts.scoring(text, candidates, length_normalize)
        futures = self._now.worker.submit(versions, kind, tokens, asked, timeout)
        return ensembled(futures, how, weights)

    def classify(
        self, prompt: str, text: str | Sequence[int], *, timeout: float | None = None
    ) -> "Future[Classified]":
        """The log-probability of every class by the prompt's own head.

        Raises:
          InputError: it has none; or as `score`.
        """
        version, tokens = self.version(prompt), self._texts.tokens(text)
        if not version.classes:
            raise InputError(
                f"prompt {prompt!r} has no head; ask for the scores of label words (score)"
            )
        kind = Kind("classify", self._texts.length(tokens))
        return self._now.worker.submit([version], kind, tokens, version.classes, timeout)[0]

    def embed(
        self, prompt: str | None, text: str | Sequence[int], *, timeout: float | None = None
    ) -> "Future[Embedded]":
        """The mean of the model's last states over the tokens of a text, read under a prompt.

        Raises:
          As `score`.
        """
        version, tokens = self.version(prompt), self._texts.tokens(text)
        kind = Kind("embed", self._texts.length(tokens))
        return self._now.worker.submit([version], kind, tokens, None, timeout)[0]

    def generate(
        self,
        prompt: str | None,
        text: str | Sequence[int],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stream: Callable[[list[int]], None] | None = None,
        timeout: float | None = None,
    ) -> "Future[Written]":
        """An answer in tokens, as `prompt_jax.generate.generate` writes it.

        Rows enter and leave the batch while others are being written.

        Args:
          stream: called with new tokens as they come, from the thread of the engine.

        Raises:
          InputError: a backbone that writes nothing, or numbers outside of their range; or as
            `score`.
        """
        how = How(max_new_tokens, temperature, top_k, top_p, seed, stream)
        if self._now.writer is None:
            raise InputError(f"backbone {self.backbone.name!r} only reads and writes no answers")
        self.backbone.check_word_head()
        self._now.writer.check(how)
        version, tokens = self.version(prompt), self._texts.tokens(text)
        self._texts.length(tokens)
        return self._now.worker.submit([version], Kind("write"), tokens, how, timeout)[0]

    def warm_up(self, kinds: Iterable[Kind] | None = None) -> int:
        """Compiles what batches will ask for, so that no request waits for it.

        Args:
          kinds: that read; None takes the label words of the prompts that are there, two
            candidates of two tokens for other scores, an embedding and, where prompts have heads,
            a class, at all lengths. Writing is compiled in any case.

        Returns:
          Programs compiled so far.

        Raises:
          EngineError: the engine is closed.
        """
        if kinds is None:
            heads = "head/out/kernel" in self._layout
            usual = self._now.reader.usual(self.lengths, heads=heads)
            labels = [
                kind for labels in self._registry.label_sets() for kind in self._texts.kinds(labels)
            ]
            kinds = dict.fromkeys([*usual, *labels])

        def compile_all() -> None:
            self._now.slots.bank.clear(PLAIN)  # It is so already.
            for kind in kinds:
                self._now.reader.warm_up(kind)
            if self._now.writer is not None and not self._now.writer.busy:
                self._now.writer.warm_up()

        self._now.worker.run(compile_all)
        return self.stats.shapes

    @property
    def stats(self) -> Stats:
        """Counters since the start."""
        return self._now.stats(self._shapes, len(self._registry.names()))

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._now.worker.alive

    @property
    def failed(self) -> bool:
        """Whether it came to an end by itself, and can begin again."""
        return self._now.worker.failed

    def restart(self) -> None:
        """Begins again after the engine came to an end by itself; prompts stay, counters do not.

        Raises:
          EngineError: it is alive, or was closed.
        """
        if not self.failed:
            raise EngineError("only an engine that came to an end by itself begins again")
        self._now = self._begin()

    def close(self) -> None:
        """Answers what waits and is being written, takes no more, and ends the thread."""
        self._now.worker.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _poison(self, row: Row) -> None:
        """A prompt whose answers are no numbers gives none any more."""
        if row.version.digest:
            self._registry.poison(row.version)
        row.settle(error=poisoned(row.version))
