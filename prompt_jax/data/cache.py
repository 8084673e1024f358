"""Arrays on disk that took long to make, by a digest of all that they were made of."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from prompt_jax import disk
from prompt_jax.config import NO_CACHE, InputError

PAGE = 4096
"""Bytes up to which a file is read and not mapped, as one of no numbers cannot be."""
Arrays = Mapping[str, np.ndarray]


class Cache:
    """A folder of arrays, each set of them in a folder named by its digest.

    Args:
      place: the folder; None is that of the user, and `off` none.

    Attributes:
      lines: what a run prints about what was read and written.
    """

    def __init__(self, place: str | None):
        folder = Path(place).expanduser() if place else disk.user_cache("rows")
        self.folder = None if place == NO_CACHE else folder
        self.lines: list[str] = []

    def arrays(self, title: str, digest: str, make: Callable[[], Arrays]) -> Arrays:
        """The arrays of a digest, mapped from disk, or made and written there.

        Args:
          title: what they are, for `lines`.
          digest: of all that they are made of; empty where that is not known.
        """
        arrays = self.read(title, digest)
        return self.write(title, digest, make()) if arrays is None else arrays

    def read(self, title: str, digest: str) -> Arrays | None:
        """The arrays of a digest, mapped from disk; None where they are not there."""
        if self.folder is None or not digest:
            return None
        folder = self.folder / digest[:32]
        arrays = _read(folder)
        if arrays is not None:
            self.lines.append(f"{title} read from {folder}")
        return arrays

    def write(self, title: str, digest: str, arrays: Arrays) -> Arrays:
        """Writes the arrays of a digest, and gives them mapped from disk."""
        if self.folder is None or not digest:
            return arrays
        folder = self.folder / digest[:32]
        try:
            _write(folder, arrays)
        except InputError as error:  # A run goes on without: it has what it wanted.
            self.lines.append(f"warning: {title} not kept for the next run: {error}")
            return arrays
        self.lines.append(f"{title} written to {folder}; --data.cache off writes none")
        return _read(folder) or arrays


def _read(folder: Path) -> Arrays | None:
    try:
        # Mapped: many processes share them, and what is never read is never in memory.
        return {path.stem: _load(path) for path in folder.glob("*.npy")} or None
    except (OSError, ValueError, EOFError):  # Damaged, as by a disk: made again.
        return None


def _load(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r" if path.stat().st_size > PAGE else None)


def _write(folder: Path, arrays: Arrays) -> None:
    fresh = disk.beside(folder)
    with disk.writing(folder, "choose another place by --data.cache"):
        try:
            fresh.mkdir(parents=True)
            for name, array in arrays.items():
                np.save(fresh / f"{name}.npy", array)
                disk.sync(fresh / f"{name}.npy")
            # Under its name once it is complete: a run that is killed leaves nothing half.
            if folder.exists():  # What cannot be read, or another run was faster.
                shutil.rmtree(folder, ignore_errors=True)
            os.replace(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
