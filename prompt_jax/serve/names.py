"""What the names of an engine mean now, for many threads at once."""

import logging
import threading

from prompt_jax.serve.prompts import PLAIN, Served, poisoned, unknown

LOG = logging.getLogger(__name__)


class Names:
    """The records of prompts by name, and which of them are refused."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served: dict[str, Served] = {}
        self._poisoned: set[str] = set()

    def __len__(self) -> int:
        return len(self._served)

    @property
    def records(self) -> list[Served]:
        """All of them, by name."""
        with self._lock:
            return [self._served[name] for name in sorted(self._served)]

    @property
    def poisoned(self) -> frozenset[str]:
        """Digests of the prompts that are refused."""
        with self._lock:
            # Those of no name any more are kept too: somebody may put their numbers again.
            if not self._poisoned:
                return frozenset()
            served = self._served.values()
            return frozenset(s.digest for s in served if s.content in self._poisoned)

    def put(self, served: Served) -> None:
        """Takes a record under its name, in place of an older one."""
        with self._lock:
            self._served[served.reference] = served
            self._poisoned.discard(served.content)

    def remove(self, name: str) -> None:
        """Forgets a name.

        Raises:
          UnknownPromptError: there is none of this name.
        """
        with self._lock:
            if self._served.pop(name, None) is None:
                raise unknown(name, self._served)

    def version(self, prompt: str | Served | None) -> Served:
        """The record of what a name stands for now; a record stands for itself.

        Raises:
          UnknownPromptError: there is none of this name.
          PoisonedPromptError: its answers were NaN or infinite.
        """
        with self._lock:
            if prompt is None:
                return PLAIN
            served = prompt if isinstance(prompt, Served) else self._served.get(prompt)
            if served is None:
                raise unknown(str(prompt), self._served)
            if served.content in self._poisoned:
                raise poisoned(served)
            return served

    def poison(self, served: Served) -> None:
        """Refuses a prompt from now on, under all of its names, until it is put anew."""
        # The plain model has no content; an input may overflow it all the same.
        with self._lock:
            if served.content and served.content not in self._poisoned:
                self._poisoned.add(served.content)
                LOG.error("refused from now on: %s", poisoned(served))
