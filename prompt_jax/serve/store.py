"""A folder of prompts by name and version, which servers and those who feed them share.

    store/films/1/              a prompt, as `save_prompt` writes it; it never changes
    store/films/2/
    store/films/3.removed/      an empty folder: a number that is never used again
    store/films/aliases.json    {"stable": 1}

A version appears whole or not at all, and an alias is one version or the other: whatever ends a
writer, at whatever moment, leaves a store that can be read. Writers take turns by a lock that ends
with its process; readers need none. What is in a store is not trusted: before anything is loaded,
names, links, sizes and headers are checked, and nothing in it is ever run.
"""

import contextlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from prompt_jax import disk
from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.prompts import Prompt, load_shaped, save_prompt
from prompt_jax.serve.errors import StoreError, UnknownPromptError
from prompt_jax.serve.inspection import JSON_BYTES, check_file, check_folder
from prompt_jax.serve.marks import Mark, inside, marks_of

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
ALIASES, DEFAULT, REMOVED, LOCK = "aliases.json", "default", ".removed", ".lock"
PATIENCE = 10.0
"""Seconds that a change waits for those of other processes."""
UNFINISHED, ABANDONED = re.compile(r"\.[0-9a-f]{8}\..+"), 3600.0
"""What `disk.beside` names, and the seconds after which its writer is surely gone."""


class Entry(NamedTuple):
    """A version of a prompt in a store."""

    name: str
    version: int
    aliases: tuple[str, ...]
    by_name: bool
    """Whether the name alone may mean it, which means the newest of these: where there is an alias
    `default`, it is that version alone."""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Scan(NamedTuple):
    """What a store holds."""

    entries: list[Entry]
    problems: list[str]
    """What is in it and cannot be used, and why."""


class Store:
    """The prompts of a folder; safe to use from any thread and any process.

    Args:
      root: the folder; created where there is none.

    Raises:
      InputError: it is no folder, or cannot be created.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).absolute()
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"the store {root} is no folder; give one, or a name that is free")
        with disk.writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        self._turn, self._depth = threading.RLock(), 0

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Keeps other writers out, so that what is read and what is then changed fit together.

        `put`, `alias`, `unalias` and `remove` do so by themselves; `with store.changing():` around
        several of them makes one change of all.

        Raises:
          InUseError: others are not done with theirs in time.
          UnwritableError: the store cannot be written.
        """
        with self._turn, contextlib.ExitStack() as stack:
            if not self._depth:
                with disk.writing(self.root):
                    file = stack.enter_context(disk.open_lock(self.root / LOCK))
                    disk.lock(file, Path(self.root.name), "try again later", wait=PATIENCE)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def put(self, name: str, prompt: Prompt) -> Entry:
        """Writes a new version of a prompt, the next number after all that ever were there.

        Raises:
          InputError: a name that is none, damaged aliases, or as `changing`.
        """
        folder = self._folder(name)
        with self.changing():
            self.versions(name)  # Raises of damaged aliases before anything is written.
            _sweep(folder)
            number = max(self._numbers(folder, gone=True), default=0) + 1
            try:
                while True:
                    try:
                        save_prompt(folder / str(number), prompt)
                        return self.resolve(f"{name}@{number}")
                    except InputError:
                        if not (folder / str(number)).exists():
                            raise
                        number += 1  # A writer took the number, where a disk has no locks.
            finally:
                # The folder of a name whose first version could not be written is empty.
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def load(self, reference: str, backbone: Backbone | None = None) -> Prompt:
        """A prompt by `name`, `name@2` or `name@alias`; see `resolve`.

        Args:
          backbone: gives its shapes to what PEFT saved of LoRA, IA3 and prefix tuning.

        Raises:
          UnknownPromptError: there is none.
          StoreError: it cannot be read.
          InputError: it is damaged, holds what no prompt has, or needs a backbone.
        """
        entry = self.resolve(reference)
        folder = self._folder(entry.name) / str(entry.version)
        try:
            check_folder(folder)
            return load_shaped(folder, backbone)
        except OSError as error:
            raise StoreError(f"{entry} cannot be read: {error}") from error

    def resolve(self, reference: str) -> Entry:
        """The version that is meant: without one that of the alias `default`, or the newest.

        Raises:
          UnknownPromptError: there is none.
          InputError: what is no name, or damaged aliases.
        """
        name, at, version = reference.partition("@")
        entries = self.versions(name).entries
        for entry in reversed(entries):
            if version in (str(entry.version), *entry.aliases) if at else entry.by_name:
                return entry
        aliases = sorted(alias for entry in entries for alias in entry.aliases)
        listed = ", ".join([*(str(entry.version) for entry in entries), *aliases])
        raise UnknownPromptError(
            f"there is no {reference!r} in the store",
            f"versions and aliases of {name!r}: {listed or 'none'}",
        )

    def alias(self, name: str, alias: str, version: int) -> None:
        """Makes an alias mean a version from now on; `default` is meant where none is named.

        Raises:
          UnknownPromptError: there is no such version.
          InputError: what is no name, or would be taken for a version; or as `changing`.
        """
        check_alias(alias)
        folder = self._folder(name)
        with self.changing():
            self.resolve(f"{name}@{version}")
            _write_aliases(folder, {**self._aliases(folder), alias: version})

    def unalias(self, name: str, alias: str) -> None:
        """Takes an alias away; without the alias `default` a name means its newest version.

        Raises:
          UnknownPromptError: there is none.
          InputError: what is no name, or as `changing`.
        """
        folder = self._folder(name)
        with self.changing():
            aliases = self._aliases(folder)
            if aliases.pop(alias, None) is None:
                raise UnknownPromptError(f"there is no {f'{name}@{alias}'!r} in the store")
            _write_aliases(folder, aliases)

    def remove(self, name: str, version: int) -> None:
        """Deletes a version that no alias means, nor the name while it has others.

        Raises:
          UnknownPromptError: there is none.
          InputError: an alias or the name means it; or as `changing`.
        """
        folder = self._folder(name)
        with self.changing():
            entry = self.resolve(f"{name}@{version}")
            _check_unmeant(entry, self.versions(name).entries)
            _sweep(folder)
            gone = folder / f"{version}{REMOVED}"
            with disk.writing(folder):
                # At once, with nothing new to write, since this is what makes room on a full disk.
                os.rename(folder / str(version), gone)
                disk.sync(folder)
                _empty(gone)

    def versions(self, name: str) -> Scan:
        """The versions of a name, whether or not they can be loaded.

        Raises:
          StoreError: they cannot be read.
          InputError: what is no name, or damaged aliases.
        """
        folder = self._folder(name)
        try:
            # In this order: NFS looks anew at a folder that is listed.
            numbers, aliases = sorted(self._numbers(folder)), self._aliases(folder)
        except OSError as error:
            raise StoreError(f"{name!r} cannot be read: {error}") from error
        return Scan(
            [Entry(name, n, _of(n, aliases), aliases.get(DEFAULT, n) == n) for n in numbers],
            [
                f"{name}@{a}: there is no version {v}"
                for a, v in aliases.items()
                if v not in numbers
            ],
        )

    def names(self) -> list[str]:
        """All names, and whatever else lies there and is not hidden.

        Raises:
          StoreError: the store is gone, or cannot be read.
        """
        try:
            return sorted(name for name in os.listdir(self.root) if not name.startswith("."))
        except OSError as error:
            raise StoreError(f"the store cannot be read: {error.strerror}") from error

    def marks(self, name: str) -> dict[str, Mark]:
        """The marks of a name's versions and aliases, by which a look costs little."""
        return marks_of(self.root / name)

    def entries(self) -> Scan:
        """All versions that are there, whether or not they can be loaded.

        Raises:
          StoreError: as `names`.
        """
        scan = Scan([], [])
        for name in self.names():
            try:
                entries, problems = self.versions(name)
            except InputError as error:
                entries, problems = [], [f"{name}: {error}"]
            scan.entries.extend(entries)
            scan.problems.extend(problems)
        return scan

    def scan(self) -> Scan:
        """All versions that can be loaded, and what cannot."""
        scan = self.entries()
        entries: list[Entry] = []
        for entry in scan.entries:
            try:
                self.load(str(entry))
                entries.append(entry)
            except InputError as error:
                scan.problems.append(f"{entry}: {error}")
        return Scan(entries, sorted(scan.problems))

    def _folder(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise InputError(f"a prompt's name is {_ALLOWED}, got {name[:80]!r}")
        folder = self.root / name
        if folder.is_symlink():
            raise InputError(f"{name!r} is a link, and a store has none; copy what it means")
        if folder.is_file():
            raise InputError(f"{name!r} is a file, and a store has folders; take it out")
        return folder

    def _numbers(self, folder: Path, *, gone: bool = False) -> set[int]:
        """Versions that are there; or with `gone`, also those that were."""
        names = [path.name for path in inside(folder)]
        if gone:
            names = [name.removesuffix(REMOVED) for name in names]
        # Neither `01`, which would be version 1 again, nor hidden folders of unfinished writers.
        return {int(name) for name in names if re.fullmatch("[1-9][0-9]{0,8}", name, re.ASCII)}

    def _aliases(self, folder: Path) -> dict[str, int]:
        path = folder / ALIASES
        try:
            check_file(path, JSON_BYTES)
            aliases = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            aliases = None
        # `isinstance` would let True pass, which is no version.
        if not isinstance(aliases, dict) or not all(
            _is_alias(alias) and type(version) is int for alias, version in aliases.items()
        ):
            raise InputError(
                f"{path.name} of {folder.name!r} is no table of versions by alias, such as "
                '{"stable": 1}; correct it, or delete it'
            )
        return aliases


_ALLOWED = "1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit"


def check_alias(alias: str) -> None:
    """Checks that a version may have an alias of this name."""
    if not _is_alias(alias):
        raise InputError(f"an alias is {_ALLOWED}, and no number, got {alias!r}")


def _is_alias(alias: str) -> bool:
    return bool(NAME.fullmatch(alias)) and not alias.isdecimal()


def _of(number: int, aliases: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(alias for alias, version in aliases.items() if version == number))


def _write_aliases(folder: Path, aliases: Mapping[str, int]) -> None:
    disk.write(folder / ALIASES, json.dumps(aliases, indent=2, sort_keys=True))


def _check_unmeant(entry: Entry, entries: list[Entry]) -> None:
    """Checks that no alias and no name would mean another version, or none, without this one."""
    names, remedy = list(entry.aliases), "give that another version first"
    newest = [version for version in entries if version.by_name][-1:]
    if entry in newest and DEFAULT not in names and len(entries) > 1:
        names, remedy = [*names, entry.name], f"{remedy}, {entry.name} by the alias {DEFAULT}"
    if names:
        raise InputError(f"{entry} is what {', '.join(names)} means; {remedy}")


def _empty(folder: Path) -> None:
    for path in inside(folder):
        _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sweep(folder: Path) -> None:
    """Deletes what writers that were killed have left of a name; with the lock alone."""
    with disk.writing(folder):
        for path in inside(folder):
            if path.name.endswith(REMOVED):
                _empty(path)
            elif UNFINISHED.fullmatch(path.name):
                # Where a disk has no locks, its writer may be at work.
                if time.time() - os.lstat(path).st_mtime > ABANDONED:
                    _delete(path)
