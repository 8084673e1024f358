"""Marks of files: by two looks at them one knows what changed in between."""

import os
import stat
import time
from pathlib import Path
from typing import TypeAlias

FINE, COARSE = 5 * 10**7, 2 * 10**9
"""Nanoseconds in which a file may change twice and keep its time: on most file systems it follows
the ticks of the machine, on some it is whole seconds."""
Mark: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and time of a file, or of a folder and all files in it."""


def marks_of(folder: Path) -> dict[str, Mark]:
    """By name, the marks of what lies in a folder.

    Something so young that it could change once more and keep its time has a mark that is equal to
    no other, and so has what cannot be read.
    """
    try:
        paths = [(path.name, path) for path in inside(folder)] or [("", folder)]
        return {name: _mark(path) for name, path in paths}
    except OSError:
        return {"": (_unequalled(),)}


def _mark(path: Path) -> Mark:
    try:
        state = os.lstat(path)
        rows = [_row("", state)]
        if stat.S_ISDIR(state.st_mode):
            with os.scandir(path) as files:
                rows += sorted(_row(f.name, f.stat(follow_symlinks=False)) for f in files)
    except FileNotFoundError:  # Somebody is deleting it.
        return (_unequalled(),)
    newest = max(row[-1] for row in rows)
    young = time.time_ns() - newest < (FINE if newest % 10**9 else COARSE)
    return (*rows, _unequalled()) if young else tuple(rows)


def _row(name: str, state: os.stat_result) -> tuple[str, int, int, int]:
    return name, state.st_ino, state.st_size, state.st_mtime_ns


def _unequalled() -> tuple[str, int, int, int]:
    return "", 0, 0, time.time_ns()


def inside(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing where it is none, a link, or gone."""
    try:
        return [] if folder.is_symlink() else sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
