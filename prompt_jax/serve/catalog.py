"""What the prompts of a store are called by those who ask, and which version that means now."""

import contextlib
import dataclasses
import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.prompts import Prompt, compose
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.errors import ChangedError, UnknownPromptError
from prompt_jax.serve.prompts import Served, injection_for, leaves_of
from prompt_jax.serve.store import Store

MOMENT = 2 * 10**9
"""Nanoseconds: clocks of file systems are no finer, and not all of them that fine."""
CANDIDATE = "?"
"""A name that no store has."""
COMPOSED = 256
"""Compositions that are kept, the last that were asked for."""


class Catalog:
    """The prompts of a store in an engine; safe to use from any thread.

    A request asks what a name means once, and keeps the record that it was given.
    """

    def __init__(self, engine: Engine, store: Store):
        self.engine, self.store = engine, store
        name = engine.backbone.name
        self.base = Path(name).name if Path(name).exists() else name
        """What the frozen model is called; of a local folder no more than its own name."""
        # Taken by those who change something. Readers need no lock, see `_publish`.
        self._lock = threading.Lock()
        self._versions: Mapping[str, Served] = {}
        self._names: Mapping[str, Served] = {}
        self._loaded: dict[str, str] = {}
        self._marks: dict[str, int] | None = None
        self._problems: list[str] = []
        self._composed: OrderedDict[str, Served] = OrderedDict()

    @property
    def served(self) -> list[Served]:
        """All versions, by name and number."""
        return list(self._versions.values())

    def refresh(self) -> list[str]:
        """Puts all that the store has into the engine, and takes out what it has no more.

        Returns:
          What cannot be served, and why.
        """
        with self._lock:
            # Before the store is read, so that a change made meanwhile shows in the next marks.
            marks, now = self.store.marks(), time.time_ns()
            # A change in the moment of the last look may have left its mark as it was.
            if marks != self._marks or max(marks.values(), default=0) > now - MOMENT:
                self._problems = self._refresh()
                self._marks = marks
            return list(self._problems)

    def _refresh(self, only: str | None = None) -> list[str]:
        """Looks at all names of the store or at one; returns what cannot be served of them."""
        scan = self.store.entries(only)
        problems = list(scan.problems)
        versions = {r: s for r, s in self._versions.items() if only not in (None, s.name)}
        for entry in scan.entries:
            reference = str(entry)
            served = self._versions.get(reference)
            try:
                if served is None:
                    self.engine.put(reference, self.store.load(reference, self.engine.backbone))
                    served = self.engine.version(reference)
            except InputError as error:
                problems.append(f"{reference}: {error}")
            else:
                # The record stays the same object while nothing about it changes.
                if (served.name, served.version, served.aliases) != entry:
                    served = dataclasses.replace(served, **entry._asdict())
                versions[reference] = served
        for reference in set(self._versions) - set(versions):
            self.engine.remove(reference)
        self._publish(dict(sorted(versions.items(), key=lambda v: (v[1].name, v[1].version))))
        return problems

    def _publish(self, versions: Mapping[str, Served]) -> None:
        """Makes every name mean its version among these."""
        names = dict(versions)
        for served in versions.values():  # The newest version comes last.
            names[served.name] = served
            names |= {f"{served.name}@{alias}": served for alias in served.aliases}
        # After the newest versions, over which the alias `default` has precedence.
        names |= {s.name: s for s in versions.values() if "default" in s.aliases}
        for name, reference in self._loaded.items():
            names.pop(name, None)  # A name that was loaded means its version or nothing.
            if reference in versions:
                names[name] = versions[reference]
        # Replaced and not changed, so that a reader sees all of the old names or all of the new.
        self._versions, self._names = versions, names

    def find(self, model: str, visible: Callable[[str], bool] | None = None) -> Served | None:
        """What `prompt`, `prompt@version` or `base:prompt` means now; None of the base itself.

        Args:
          visible: whether who asks may see prompts of a name; None shows all.

        Raises:
          UnknownPromptError: there is none, or none that may be seen.
        """
        name = model.removeprefix(f"{self.base}:")
        if name in ("", self.base):
            return None
        served = self._names.get(name)
        if served is None or not (visible is None or visible(served.name)):
            raise unknown_model(model)
        return served

    def load(
        self,
        name: str,
        reference: str,
        visible: Callable[[str], bool] | None = None,
        *,
        replace: bool = False,
    ) -> Served:
        """Makes another name mean a version until it is unloaded; the store does not learn of it.

        Args:
          reference, visible: as `find` takes them; the version that it means now is meant from now
            on.
          replace: whether the name may mean something already.

        Raises:
          UnknownPromptError: there is no such version.
          InputError: the name is taken.
        """
        with self._lock:
            self._refresh()
            served = self.find(reference, visible)
            if served is None:
                raise UnknownPromptError("the base needs no other name")
            if not replace and self._names.get(name, served) is not served:
                raise InputError(f"{name[:80]!r} is taken; unload it, or replace it")
            self._loaded[name] = served.reference
            self._publish(self._versions)
            return served

    def unload(self, name: str) -> None:
        """Forgets a name that was loaded."""
        with self._lock:
            if self._loaded.pop(name, None) is None:
                raise UnknownPromptError(f"{name[:80]!r} was not loaded")
            self._publish(self._versions)

    def composed(
        self, parts: Sequence[Served], how: str, weights: Sequence[float] | None
    ) -> Served:
        """A prompt composed of several, in the engine while it is among the last in use."""
        # By name as well: of prompts with the same numbers, each is told its own names alone.
        key = json.dumps([how, weights, [(part.reference, part.digest) for part in parts]])
        with self._lock:
            # Taken out and put back below, which makes it the last in use.
            served = self._composed.pop(key, None)
            if served is None:
                prompt = compose([part.prompt for part in parts if part.prompt], how, weights)
                reference = f"{how}({','.join(part.reference for part in parts)})"
                # The readable part leaves out weights and digests, by which two may differ.
                reference += f"#{hashlib.sha256(key.encode()).hexdigest()[:12]}"
                self.engine.put(reference, prompt)
                served = self.engine.version(reference)
            self._composed[key] = served
            if len(self._composed) > COMPOSED:
                _, oldest = self._composed.popitem(last=False)
                self.engine.remove(oldest.reference)
            return served

    def put(self, name: str, prompt: Prompt, *, expected: str | None = None) -> Served:
        """A new version of a prompt, in the store and in the engine.

        Args:
          expected: the digest of what the name means until then; None does not compare.

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
            return self._versions[str(entry)]

    def alias(self, name: str, alias: str, version: int, *, expected: str | None = None) -> None:
        """Makes an alias mean a version, in the store and here."""
        with self._lock:
            self._check(f"{name}@{alias}", expected)
            self.store.alias(name, alias, version)
            self._refresh(name)

    def remove(self, name: str, version: int, *, expected: str | None = None) -> None:
        """Deletes a version that no alias means, from the store and from the engine."""
        with self._lock:
            self._check(f"{name}@{version}", expected)
            self.store.remove(name, version)
            self._refresh(name)

    def _check(self, name: str, expected: str | None) -> None:
        served = self._names.get(name)
        digest = "" if served is None else served.digest
        if expected is not None and digest != expected:
            raise ChangedError(
                f"{name!r} is {digest[:12] or 'not there'} and not {expected[:12]!r}; look at it "
                "again"
            )


def unknown_model(model: str) -> UnknownPromptError:
    """The error of a name that means nothing to who asks, whatever it means to others."""
    return UnknownPromptError(f"there is no model {model[:80]!r}")


def open_catalog(
    backbone: Backbone, store: Store, room: Sequence[MethodConfig], **sizes: Any
) -> tuple[Catalog, list[str]]:
    """An engine with room for all that a store has and for what may come, and its catalog.

    Returns:
      The catalog, and what of the store cannot be served, and why.
    """
    # The size of a slot is fixed when the engine is made, so every prompt is looked at before.
    fitting: dict[str, Prompt] = {}
    for entry in store.entries().entries:
        # What does not load or fit is reported by `refresh`.
        with contextlib.suppress(InputError):
            prompt = store.load(str(entry), backbone)
            leaves_of(injection_for(backbone, prompt, allow_mismatch=False))
            fitting[str(entry)] = prompt
    catalog = Catalog(Engine(backbone, fitting, room=room, **sizes), store)
    return catalog, catalog.refresh()
