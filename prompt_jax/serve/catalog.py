"""What the prompts of a store are called by those who ask, and which version that means now."""

import contextlib
import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.prompts import Prompt, compose
from prompt_jax.serve.bank import flat
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.errors import UnknownPromptError
from prompt_jax.serve.registry import injection_for
from prompt_jax.serve.store import Entry, Store


class Served(NamedTuple):
    """A version that the engine holds, or what was composed of some."""

    reference: str
    """Its name in the engine: `name@version`."""
    digest: str
    prompt: Prompt
    entry: Entry | None = None
    """None of a composition, which the store has not."""

    @property
    def name(self) -> str:
        """Without the version; empty of a composition."""
        return self.entry.name if self.entry else ""

    @property
    def order(self) -> tuple[str, int]:
        """By name and number."""
        return self.name, self.entry.version if self.entry else 0

    @property
    def aliases(self) -> tuple[str, ...]:
        """What else this version is called."""
        return self.entry.aliases if self.entry else ()


class ChangedError(InputError):
    """Somebody else changed the prompt in the meantime."""


class Catalog:
    """The prompts of a store in an engine; safe to use from any thread.

    A request asks what a name means once, and keeps the version that it was told.

    Args:
      engine: where prompts are put.
      store: where they are kept.
    """

    def __init__(self, engine: Engine, store: Store):
        self.engine, self.store = engine, store
        self._lock = threading.Lock()
        self._served: Mapping[str, Served] = {}
        self._meaning: Mapping[str, str] = {}
        self._marks: dict[str, int] | None = None
        self._problems: list[str] = []
        self._loaded: dict[str, str] = {}
        self._composed: OrderedDict[str, Served] = OrderedDict()

    @property
    def base(self) -> str:
        """What the frozen model is called; of a local folder no more than its own name."""
        name = self.engine.backbone.name
        return Path(name).name if Path(name).exists() else name

    @property
    def served(self) -> list[Served]:
        """All versions, by name and number."""
        return list(self._served.values())

    def refresh(self) -> list[str]:
        """Puts all that the store has into the engine, and takes out what it has no more.

        Returns:
          What cannot be served, and why.
        """
        with self._lock:
            marks, now = self.store.marks(), time.time_ns()
            # A change in the moment of the last look may have left its mark as it was.
            if marks != self._marks or max(marks.values(), default=0) > now - MOMENT:
                self._problems = self._refresh()
                self._marks = marks
            return list(self._problems)

    def _refresh(self, only: str | None = None) -> list[str]:
        """Of all names or of one; what cannot be served of them."""
        found = self.store.entries(only)
        problems = list(found.problems)
        served = {r: each for r, each in self._served.items() if only not in (None, each.name)}
        for entry in found.entries:
            reference = str(entry)
            known = self._served.get(reference)
            try:
                prompt = known.prompt if known else self.store.load(reference)
                digest = known.digest if known else self.engine.put(reference, prompt)
            except InputError as error:
                problems.append(f"{reference}: {error}")
            else:
                served[reference] = Served(reference, digest, prompt, entry)
        served = dict(sorted(served.items(), key=lambda each: each[1].order))
        for reference in set(self._served) - set(served):
            self.engine.remove(reference)
        meaning = {}
        for each in served.values():  # The newest version comes last.
            meaning[each.name] = each.reference
            for alias in each.aliases:
                meaning[f"{each.name}@{alias}"] = each.reference
        for each in served.values():
            if "default" in each.aliases:
                meaning[each.name] = each.reference
        # Whoever reads sees all of the old ones or all of the new ones.
        self._served, self._meaning = served, meaning
        return problems

    def find(self, model: str) -> Served | None:
        """What `prompt`, `prompt@version` or `base:prompt` means now; None of the base itself.

        Raises:
          UnknownPromptError: there is none.
        """
        name = model.removeprefix(f"{self.base}:")
        if name in ("", self.base):
            return None
        found = self._found(name)
        if found is None:
            raise UnknownPromptError(f"there is no model {model[:80]!r}")
        return found

    def _found(self, name: str) -> Served | None:
        served = self._served
        name = self._loaded.get(name, name)
        return served.get(name) or served.get(self._meaning.get(name, ""))

    def load(self, name: str, reference: str, *, replace: bool = False) -> Served:
        """Makes another name mean a version until it is unloaded; the store does not learn of it.

        Args:
          reference: as `find` takes it; the version that it means now is meant from now on.
          replace: whether the name may mean something already.

        Raises:
          UnknownPromptError: there is no such version.
          InputError: the name is taken.
        """
        with self._lock:
            self._refresh()
            found = self.find(reference)
            if found is None:
                raise UnknownPromptError("the base needs no other name")
            if not replace and self._found(name) not in (None, found):
                raise InputError(f"{name[:80]!r} is taken; unload it, or replace it")
            self._loaded[name] = found.reference
            return found

    def unload(self, name: str) -> None:
        """Forgets a name that was loaded.

        Raises:
          UnknownPromptError: it was not.
        """
        with self._lock:
            if self._loaded.pop(name, None) is None:
                raise UnknownPromptError(f"{name[:80]!r} was not loaded")

    def composed(
        self, parts: Sequence[Served], how: str, weights: Sequence[float] | None
    ) -> Served:
        """A prompt composed of some, in the engine while it is among the last that were asked for.

        Raises:
          InputError: as `prompt_jax.compose`, and `Engine.put`.
        """
        key = json.dumps([how, weights, [part.digest for part in parts]])
        with self._lock:
            found = self._composed.pop(key, None)
            if found is None:
                prompt = compose([part.prompt for part in parts], how, weights)
                reference = f"{how}({','.join(part.reference for part in parts)})"
                reference += f"#{hashlib.sha256(key.encode()).hexdigest()[:12]}"
                found = Served(reference, self.engine.put(reference, prompt), prompt)
            self._composed[key] = found
            if len(self._composed) > COMPOSED:
                _, oldest = self._composed.popitem(last=False)
                self.engine.remove(oldest.reference)
            return found

    def put(self, name: str, prompt: Prompt, *, expected: str | None = None) -> Served:
        """A new version of a prompt, in the store and in the engine.

        Args:
          expected: the digest of what the name means until then; None does not ask.

        Raises:
          ChangedError: it means something else.
          InputError: as `Engine.put` and `Store.put`.
        """
        with self._lock:
            self._check(name, expected)
            self.engine.put(CANDIDATE, prompt)  # Before it is kept: refused ones leave nothing.
            self.engine.remove(CANDIDATE)
            entry = self.store.put(name, prompt)
            self._refresh(name)
            return self._served[str(entry)]

    def alias(self, name: str, alias: str, version: int, *, expected: str | None = None) -> None:
        """See `Store.alias`.

        Raises:
          As `put` and `Store.alias`.
        """
        with self._lock:
            self._check(f"{name}@{alias}", expected)
            self.store.alias(name, alias, version)
            self._refresh(name)

    def remove(self, name: str, version: int, *, expected: str | None = None) -> None:
        """See `Store.remove`.

        Raises:
          As `put` and `Store.remove`.
        """
        with self._lock:
            self._check(f"{name}@{version}", expected)
            self.store.remove(name, version)
            self._refresh(name)

    def _check(self, name: str, expected: str | None) -> None:
        if expected is None:
            return
        found = self._found(name)
        digest = "" if found is None else found.digest
        if digest != expected:
            raise ChangedError(
                f"{name!r} is {digest[:12] or 'not there'} and not {expected[:12]!r}; look at it "
                "again"
            )


MOMENT = 2 * 10**9
"""Nanoseconds: clocks of file systems are no finer, and not all of them that fine."""
CANDIDATE = "?"
"""A name that no store has."""
COMPOSED = 256
"""Compositions that are kept, the last that were asked for."""


def open_catalog(
    backbone: Backbone, store: Store, room: Sequence[MethodConfig], **sizes: Any
) -> tuple[Catalog, list[str]]:
    """An engine with room for all that a store has and for what may come, and its catalog.

    Args:
      room, sizes: as `Engine` takes them.

    Returns:
      The catalog, and what of the store cannot be served, and why.
    """
    fitting: dict[str, Prompt] = {}
    for entry in store.entries().entries:
        # What does not load or fit is told by `refresh`.
        with contextlib.suppress(InputError):
            prompt = store.load(str(entry))
            flat(injection_for(backbone, prompt, allow_mismatch=False))
            fitting[str(entry)] = prompt
    catalog = Catalog(Engine(backbone, fitting, room=room, **sizes), store)
    return catalog, catalog.refresh()
