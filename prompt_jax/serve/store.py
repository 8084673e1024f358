"""A folder of prompts by name and version, which a server and those who feed it share.

    store/films/1/          a prompt, as `save_prompt` writes it; it never changes
    store/films/2/
    store/films/aliases.json    {"stable": 1}

A version appears whole or not at all, and an alias is one version or the other: whatever ends a
writer, at whatever moment, leaves a store that can be read. What is in it is not trusted: before
anything is loaded, names, links, sizes and headers are checked, and nothing in it is ever run.
"""

import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import NamedTuple

from prompt_jax import disk
from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.prompts import Prompt, load_shaped, save_prompt
from prompt_jax.prompts.folder import OWN_FILES
from prompt_jax.serve.errors import UnknownPromptError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
ALIASES, REMOVED = "aliases.json", ".removed"
FILE_BYTES, JSON_BYTES, HEADER_BYTES, TENSORS = 2**28, 2**22, 2**20, 10_000
"""The most that a file, a config, and the header and the number of tensors of weights may be."""
DTYPES = ("F32", "F16", "BF16")


class Entry(NamedTuple):
    """A version of a prompt in a store."""

    name: str
    version: int
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Scan(NamedTuple):
    """What a store holds."""

    entries: list[Entry]
    problems: list[str]
    """What is in it and cannot be used, and why."""


class Store:
    """The prompts of a folder.

    Args:
      root: the folder; created where there is none.

    Raises:
      InputError: it is no folder.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).absolute()
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"the store {root} is no folder; give one, or a name that is free")
        self.root.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, prompt: Prompt) -> Entry:
        """Writes a new version of a prompt, the next number after all that ever were there.

        Raises:
          InputError: a name that is none, or a place that cannot be written.
        """
        folder = self._folder(name)
        number = max(self._numbers(folder, gone=True), default=0) + 1
        while True:
            try:
                save_prompt(folder / str(number), prompt)
                return Entry(name, number, ())
            except InputError:
                if not (folder / str(number)).exists():
                    raise
                number += 1  # Another writer took the number meanwhile.

    def load(self, reference: str, backbone: Backbone | None = None) -> Prompt:
        """A prompt by `name`, `name@2` or `name@alias`; see `resolve`.

        Args:
          backbone: gives its shapes to what PEFT saved of LoRA, IA3 and prefix tuning.

        Raises:
          UnknownPromptError: there is none.
          InputError: it is damaged, holds what no prompt has, or needs a backbone.
        """
        entry = self.resolve(reference)
        folder = self._folder(entry.name) / str(entry.version)
        check_folder(folder)
        return load_shaped(folder, backbone)

    def resolve(self, reference: str) -> Entry:
        """The version that is meant: without one that of the alias `default`, or the newest.

        Raises:
          UnknownPromptError: there is none.
          InputError: what is no name.
        """
        name, at, version = reference.partition("@")
        folder = self._folder(name)
        numbers, aliases = self._numbers(folder), self._aliases(folder)
        number = max(numbers, default=0)
        if not at:
            number = aliases.get("default", number)
        elif version.isascii() and version.isdecimal():
            number = int(version)
        else:
            number = aliases.get(version, 0)
        if number not in numbers:
            listed = ", ".join(map(str, [*sorted(numbers), *sorted(aliases)])) or "none"
            raise UnknownPromptError(
                f"there is no {reference!r} in the store",
                f"versions and aliases of {name!r}: {listed}",
            )
        return Entry(name, number, _aliases_of(number, aliases))

    def alias(self, name: str, alias: str, version: int) -> None:
        """Makes an alias mean a version from now on; `default` is meant where none is named.

        Raises:
          UnknownPromptError: there is no such version.
          InputError: what is no name, or would be taken for a version.
        """
        if not NAME.fullmatch(alias) or alias.isdecimal():
            raise InputError(f"an alias is {_ALLOWED}, and no number, got {alias!r}")
        self.resolve(f"{name}@{version}")
        folder = self._folder(name)
        changed = {**self._aliases(folder), alias: version}
        disk.write(folder / ALIASES, json.dumps(changed, indent=2, sort_keys=True))

    def remove(self, name: str, version: int) -> None:
        """Deletes a version that no alias means.

        Raises:
          UnknownPromptError: there is none.
          InputError: an alias means it.
        """
        entry = self.resolve(f"{name}@{version}")
        if entry.aliases:
            raise InputError(
                f"{entry} is what {', '.join(entry.aliases)} means; give that another version first"
            )
        folder = self._folder(name)
        with disk.writing(folder):
            (folder / f"{version}{REMOVED}").touch()  # Its number is never used again.
            gone = disk.beside(folder / str(version))
            os.rename(folder / str(version), gone)  # At once; deleting it takes a while.
            disk.sync(folder)
        shutil.rmtree(gone)

    def entries(self, only: str | None = None) -> Scan:
        """All versions that are there, whether or not they can be loaded.

        Args:
          only: a name, and no other is looked at.

        Raises:
          InputError: `only` is no name.
        """
        entries: list[Entry] = []
        problems: list[str] = []
        for folder in sorted(self.root.iterdir()) if only is None else [self._folder(only)]:
            if folder.name.startswith("."):
                continue
            if not NAME.fullmatch(folder.name) or folder.is_symlink() or folder.is_file():
                problems.append(f"{folder.name}: no folder of a prompt's versions; left alone")
                continue
            numbers = sorted(self._numbers(folder))
            try:
                aliases = self._aliases(folder)
            except InputError as error:
                problems += [f"{folder.name}@{number}: {error}" for number in numbers]
                continue
            entries += [Entry(folder.name, n, _aliases_of(n, aliases)) for n in numbers]
        return Scan(entries, problems)

    def marks(self) -> dict[str, int]:
        """When the folder of each name last changed, in ns: a look that costs little."""
        with os.scandir(self.root) as folders:
            return {
                folder.name: folder.stat(follow_symlinks=False).st_mtime_ns
                for folder in folders
                if not folder.name.startswith(".")
            }

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
        return folder

    def _numbers(self, folder: Path, *, gone: bool = False) -> set[int]:
        """Versions that are there; or with `gone`, also those that were."""
        if not folder.is_dir():
            return set()
        names = [entry.name for entry in folder.iterdir()]
        if gone:
            names = [name.removesuffix(REMOVED) for name in names]
        # Neither `01`, which would be version 1 again, nor hidden folders of unfinished writers.
        return {int(name) for name in names if re.fullmatch("[1-9][0-9]{0,8}", name, re.ASCII)}

    def _aliases(self, folder: Path) -> dict[str, int]:
        path = folder / ALIASES
        if not path.exists():
            return {}
        _check_file(path, JSON_BYTES)
        try:
            aliases = json.loads(path.read_bytes())
        except ValueError:
            aliases = None
        # `isinstance` would let True pass, which is no version.
        if not isinstance(aliases, dict) or not all(type(n) is int for n in aliases.values()):
            raise InputError(
                f"{path.name} of {folder.name!r} is no table of versions; set its aliases again"
            )
        return aliases


_ALLOWED = "1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit"


def _aliases_of(number: int, aliases: dict[str, int]) -> tuple[str, ...]:
    return tuple(sorted(alias for alias, version in aliases.items() if version == number))


def check_folder(folder: Path) -> None:
    """Checks that a folder may be read as a prompt: files of known names, none a link or large."""
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder.name} is no folder; a version of a prompt is one")
    for path in sorted(folder.iterdir()):
        if path.name not in OWN_FILES or path.suffix not in (".json", ".safetensors", ".md"):
            raise InputError(f"{path.name[:80]!r} is no file of a prompt; take it out of the store")
        _check_file(path, FILE_BYTES if path.suffix == ".safetensors" else JSON_BYTES)
        if path.suffix == ".safetensors":
            _check_header(path)


def _check_file(path: Path, most: int) -> None:
    # Not `stat`, which would follow a link and describe its target.
    state = os.lstat(path)
    if not stat.S_ISREG(state.st_mode):
        raise InputError(f"{path.name} is a link or a folder; a prompt has files of its own")
    if state.st_size > most:
        raise InputError(f"{path.name} has {state.st_size} bytes, and {most} is the most")


def _check_header(path: Path) -> None:
    """What the header of a safetensors file claims, before anything is made of it."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= HEADER_BYTES:
            raise InputError(
                f"{path.name} has a header of {size} bytes, and {HEADER_BYTES} is the most"
            )
        try:
            # A hostile header may be nested deeply enough to exhaust the parser's recursion.
            header = json.loads(file.read(size))
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        raise InputError(f"{path.name} has a header that is no JSON object; it is damaged")
    tensors = {name: about for name, about in header.items() if name != "__metadata__"}
    if len(tensors) > TENSORS:
        raise InputError(f"{path.name} has {len(tensors)} tensors, and {TENSORS} is the most")
    for name, about in tensors.items():
        dtype = about.get("dtype") if isinstance(about, dict) else None
        if dtype not in DTYPES:
            raise InputError(
                f"{name[:80]!r} of {path.name} is {str(dtype)[:20]!r}; the numbers of a prompt are "
                f"{', '.join(DTYPES)}"
            )
