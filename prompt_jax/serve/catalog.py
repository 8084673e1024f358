"""What the prompts of a store are called by those who ask, and which version that means now."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.prompts import Prompt, compose
from prompt_jax.prompts.folder import describe
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.errors import ChangedError, StoreError, UnknownPromptError
from prompt_jax.serve.marks import Mark
from prompt_jax.serve.prompts import Served, injection_for
from prompt_jax.serve.slots import leaves_of
from prompt_jax.serve.store import DEFAULT, Entry, Store

LOG = logging.getLogger(__name__)
AUDIT = logging.getLogger("prompt_jax.audit")
"""A line for each change of a store; who made it, the log adds."""
CANDIDATE = "the new version"
"""A name that no store has."""
COMPILING = 30.0
"""Seconds that a prompt which joins waits for its programs at most; then its requests do."""
COMPOSED = 256
"""Compositions that are kept, the last that were asked for."""


class Look(NamedTuple):
    """What a look at a name in the store showed."""

    marks: Mapping[str, Mark] = {}
    """By what lies there, see `Store.marks`; empty of what could not be read."""
    versions: Mapping[str, Served] = {}
    problems: Sequence[str] = ()
    """What cannot be served, and why."""


class Catalog:
    """The prompts of a store in an engine; safe to use from any thread.

    A request asks what a name means once, and keeps the record that it was given.
    """

    def __init__(self, engine: Engine, store: Store):
        self.engine, self.store = engine, store
        name = engine.backbone.name
        self.base = Path(name).name if Path(name).exists() else name
        """What the frozen model is called; of a local folder no more than its own name."""
        # Taken by those who look at the store or change it, who may have to wait for others. Those
        # who ask need none, see `_publish`, and composing has one of its own.
        self._lock, self._composing = threading.Lock(), threading.Lock()
        self._versions: Mapping[str, Served] = {}
        self._names: Mapping[str, Served] = {}
        self._looks: Mapping[str, Look] = {}
        self._composed: OrderedDict[str, Served] = OrderedDict()
        self.lost = ""
        """Why the store is not there, while what it had is served on; empty while it is."""

    @property
    def served(self) -> list[Served]:
        """All versions, by name and number."""
        return list(self._versions.values())

    def __contains__(self, reference: str) -> bool:
        """Whether a version such as `films@2` is served."""
        return reference in self._versions

    def refresh(self) -> list[str]:
        """Puts all that the store has into the engine, and takes out what it no longer has.

        While the store cannot be read, or all of it is gone at once, what it had stays.

        Returns:
          What cannot be served, and why.
        """
        with self._lock:
            self._refresh()
            return self.problems

    @property
    def problems(self) -> list[str]:
        """What could not be served at the last look, and why."""
        return [problem for look in self._looks.values() for problem in look.problems]

    def losses(self) -> list[str]:
        """Why the store is not there, where it is not."""
        return [self.lost] if self.lost else []

    def _refresh(self, only: str | None = None) -> None:
        """Looks at all names of the store, or at one."""
        names = self._present()
        if self.lost:
            return
        looks: dict[str, Look] = {}
        for name in names:
            looks[name] = last = self._looks.get(name, Look())
            # Before the versions are read, so that a change made meanwhile shows in the next marks.
            marks = self.store.marks(name) if only in (None, name) else last.marks
            if marks != last.marks:
                looks[name] = self._look(name, marks, last)
        if not self._present() and self.lost:  # Which it became while it was read.
            return
        self._looks = looks
        gone = self._publish({r: s for look in looks.values() for r, s in look.versions.items()})
        for reference in gone:
            self.engine.remove(reference)

    def _present(self) -> list[str]:
        """The names of the store; notes in `lost` whether it is there."""
        try:
            names = self.store.names()
        except StoreError as error:
            names, self.lost = [], str(error)
        else:
            # A name keeps its folder when its last version is removed, so this is no change of
            # prompts but a volume that is not mounted.
            self.lost = "the store is empty" if self._versions and not names else ""
        return names

    def _look(self, name: str, marks: Mapping[str, Mark], last: Look) -> Look:
        """Reads what is not as it was at the last look; of what cannot be read the last stays."""
        try:
            if name == self.base:
                raise InputError("it is what the frozen model is called; publish it as another")
            entries, problems = self.store.versions(name)
        except StoreError as error:
            return Look({}, last.versions, [str(error)])
        except InputError as error:  # Half a file perhaps, that somebody is writing.
            return Look(marks, last.versions, [f"{name}: {error}"])
        versions: dict[str, Served] = {}
        for entry in entries:
            number, reference = str(entry.version), str(entry)
            served = last.versions.get(reference)
            try:
                if served is None or marks.get(number) != last.marks.get(number):
                    served = self._load(entry, served)
            except InputError as error:
                problems.append(f"{reference}: {error}")
                marks = {} if isinstance(error, StoreError) else marks  # Look again next time.
            if served is not None:
                # The record stays the same object while nothing about it changes.
                state = entry._asdict()
                if any(getattr(served, field) != value for field, value in state.items()):
                    served = dataclasses.replace(served, **state)
                versions[reference] = served
        return Look(marks, versions, problems)

    def _load(self, entry: Entry, served: Served | None) -> Served:
        """The record of a version, in the engine; the one that is served where it is the same."""
        prompt = self.store.load(str(entry), self.engine.backbone)
        if served and served.prompt and describe(served.prompt) == describe(prompt):
            return served
        self.engine.put(str(entry), prompt)
        record = self.engine.version(str(entry))
        # Its name means it after that, so that its first requests wait for no program.
        concurrent.futures.wait(self.engine.prepare_for(record), timeout=COMPILING)
        return record

    def _publish(self, versions: Mapping[str, Served]) -> set[str]:
        """Makes every name mean its version among these; returns those that were and are not."""
        names = dict(versions)
        for served in versions.values():  # The newest version comes last.
            names |= {f"{served.name}@{alias}": served for alias in served.aliases}
            names |= {served.name: served} if served.by_name else {}
        # Replaced and not changed, so that a reader sees all of the old names or all of the new.
        gone = self._versions.keys() - versions.keys()
        for change, changed in ("served", versions.keys() - self._versions.keys()), ("gone", gone):
            for reference in sorted(changed):
                LOG.info("%s from now on", change, extra={"fields": {"prompt": reference}})
        self._versions, self._names = versions, names
        return gone

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

    def composed(
        self, parts: Sequence[Served], how: str, weights: Sequence[float] | None
    ) -> Served:
        """A prompt composed of several, in the engine while it is among the last in use."""
        # By name as well: of prompts with the same numbers, each is told its own names alone.
        key = json.dumps([how, weights, [(part.reference, part.digest) for part in parts]])
        with self._composing:
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
        with self._changing(name, expected) as before:
            if name == self.base:
                raise InputError(f"{name!r} is what the frozen model is called; give another name")
            self.engine.put(CANDIDATE, prompt)  # Before it is kept: refused ones leave nothing.
            self.engine.remove(CANDIDATE)
            entry = self.store.put(name, prompt)
        _audit("put", name, before, str(entry))
        served = self._versions.get(str(entry))
        if served is None:
            raise StoreError(f"{entry} is in the store and cannot be read again")
        return served

    def alias(self, name: str, alias: str, version: int, *, expected: str | None = None) -> None:
        """Makes an alias mean a version, in the store and here."""
        with self._changing(f"{name}@{alias}", expected) as before:
            self.store.alias(name, alias, version)
        _audit("alias", f"{name}@{alias}", before, f"{name}@{version}")

    def load(
        self, model: str, reference: str, visible: Callable[[str], bool] | None = None, *,
        replace: bool = False,
    ) -> None:  # fmt: skip
        """Makes `prompt@alias`, or `prompt` by the alias `default`, mean another of its versions.

        Args:
          reference: as `find` takes it; the version that it means now is meant from now on.
          visible: as `find` has it.
          replace: whether `model` may mean another version already.

        Raises:
          UnknownPromptError: there is no such version.
          InputError: `model` is of another prompt, or means another version; or as `Store.alias`.
        """
        name, _, alias = model.partition("@")
        with self._changing(model, None) as before:
            served = self.find(reference, visible)
            if served is None:
                raise UnknownPromptError("the base needs no other name")
            if name != served.name:
                raise InputError(
                    f"{model[:80]!r} is no name for {served.name}, whose versions are known as "
                    f"{served.name} and {served.name}@ALIAS; load it as one of these, or publish "
                    "it under the other name"
                )
            present = self._names.get(model)
            if present is not None and present is not served and not replace:
                raise InputError(f"{model!r} means {present.reference}; unload it, or replace it")
            if present is not served:
                self.store.alias(name, alias or DEFAULT, served.version)
        _audit("alias", model, before, served.reference)

    def unload(self, model: str) -> None:
        """Takes the alias of `prompt@alias` away, or the alias `default` of `prompt`."""
        name, _, alias = model.partition("@")
        with self._changing(model, None) as before:
            self.store.unalias(name, alias or DEFAULT)
        after = self._names.get(model)
        _audit("unalias", model, before, after.reference if after else "")

    def remove(self, name: str, version: int, *, expected: str | None = None) -> None:
        """Deletes a version that nothing means, see `Store.remove`, in the store and here."""
        with self._changing(f"{name}@{version}", expected) as before:
            self.store.remove(name, version)
        _audit("remove", f"{name}@{version}", before, "")

    @contextlib.contextmanager
    def _changing(self, model: str, expected: str | None) -> Iterator[Served | None]:
        """Keeps the store for one change of what a name means until then, and takes it in.

        Args:
          model: what is changed.
          expected: the digest of what it has to mean until then, `*` of anything; None does not
            compare.

        Raises:
          StoreError: the store is lost, and what is written would be lost with it.
          ChangedError: it means something else.
        """
        with self._lock, self.store.changing():
            name = model.partition("@")[0]
            self._refresh(name)
            if self.lost:
                raise StoreError(f"{self.lost}; prompts are served and cannot be changed")
            served = self._names.get(model)
            digest = "" if served is None else served.digest
            meant = {digest, "*"} if digest else {digest}
            if expected is not None and expected not in meant:
                raise ChangedError(
                    f"{model!r} is {digest[:12] or 'not there'} and not {expected[:12]!r}; look at "
                    "it again"
                )
            yield served
            self._refresh(name)


def _audit(action: str, model: str, before: Served | None, after: str) -> None:
    """Logs a change of what a name means."""
    reference = before.reference if before else ""
    fields = {"action": action, "model": model, "from": reference, "to": after}
    AUDIT.info("changed", extra={"fields": fields})


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
