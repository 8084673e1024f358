"""What runs behind an engine: its prompts, its programs, and the thread that answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future

from prompt_jax.backbones import Backbone
from prompt_jax.forward import PromptedModel
from prompt_jax.prompts import Prompt
from prompt_jax.serve.encoding import Inputs
from prompt_jax.serve.errors import EngineError
from prompt_jax.serve.names import Names
from prompt_jax.serve.programs import Programs
from prompt_jax.serve.prompts import Served, poisoned, served_as
from prompt_jax.serve.requests import Kind, Request
from prompt_jax.serve.scoring import forget
from prompt_jax.serve.sizes import Sizes
from prompt_jax.serve.slots import Layout
from prompt_jax.serve.worker import Stats, Worker


class Running:
    """One frozen model and its prompts, from the first program to the last answer.

    Args:
      layout: of a slot.
    """

    def __init__(
        self, backbone: Backbone, sizes: Sizes, layout: Layout, prompts: Mapping[str, Prompt]
    ):
        self.backbone, self._sizes, self._layout = backbone, sizes, layout
        self.lengths, self.slots = sizes.lengths, sizes.slots
        self.max_new_tokens = sizes.max_new_tokens
        self._model, self._inputs = PromptedModel.of(backbone), Inputs(backbone, self.lengths)
        self._names = Names()
        self.on_batch: Callable[[Sequence[Request]], None] = lambda requests: None
        """Called with the requests of every batch as it begins, in the thread of the engine."""
        self._warms = False
        for name, prompt in prompts.items():
            self.put(name, prompt)
        self._programs = Programs(forget)
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
          kinds: None takes the heads and label words of the prompts that are there, two candidates
            of two tokens for other scores and an embedding, at all lengths, and writing.

        Returns:
          The ends of it.

        Raises:
          EngineError: the engine is closed.
        """
        self._warms = True
        if kinds is None:
            prompts = self._names.records
            usual = self._worker.usual_kinds(self.lengths)
            kinds = [*usual, *(kind for p in prompts for kind in self._inputs.kinds_of(p))]
        return self._worker.prepare(dict.fromkeys(kinds))

    def prepare_for(self, served: Served) -> "list[Future[None]]":
        """Begins to compile for the head or label words of a prompt that joins, after `prepare`.

        Returns:
          The ends of it; none where nothing is missing.
        """
        kinds = self._inputs.kinds_of(served) if self._warms else []
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

    def _poison(self, request: Request) -> None:
        self._names.poison(request.served)
        request.settle(error=poisoned(request.served))
