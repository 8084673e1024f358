"""Files that are there whole or not at all, after a power cut too; locks; a full disk."""

import contextlib
import errno
import os
import random
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from prompt_jax.config import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room left for a file."""
NUMBER = re.compile(r"os(?: error |_error_code=')(\d+)")
"""How safetensors and TensorStore tell it, whose errors are none of the system's."""
HIDDEN = re.compile(r"^\.[0-9a-f]{8}\.(?=.)")
"""What `beside` puts in front of a name."""
LOCKLESS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)
"""What the system says where a file system, such as a mounted bucket, has no locks."""


class UnwritableError(InputError):
    """A place that cannot be written; it holds what it held before."""

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason
        """What the system says, without the place: for those who may not know where that is."""


class DiskFullError(UnwritableError):
    """There is no room for a file; what was written before it stays."""


class InUseError(InputError):
    """Another process has the lock of a place."""


def user_cache(name: str) -> Path:
    """A folder for what can be made again: ~/.cache/prompt_jax/NAME, or in XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prompt_jax" / name


@contextlib.contextmanager
def writing(place: Path, remedy: str = "choose another place") -> Iterator[None]:
    """Says in one line why something cannot be written.

    Args:
      place: what is written.
      remedy: what to do where the place is the reason.

    Raises:
      DiskFullError: the disk is full.
      UnwritableError: the place cannot be written.
    """
    try:
        yield
    except InputError:  # Somebody has said it in one line already.
        raise
    except Exception as error:
        number, reason = _reason(error)
        if reason is None:
            raise
        message = f"cannot write {place}: {reason}"
        if number in FULL:
            message = f"{message}; free some space and run the command again"
            raise DiskFullError(message, reason) from error
        raise UnwritableError(f"{message}; {remedy}", reason) from error


def _reason(error: Exception) -> tuple[int | None, str | None]:
    """Number and words of the system's error; None where it is another one."""
    if isinstance(error, OSError):
        return error.errno, error.strerror or str(error)
    match = NUMBER.search(str(error))
    return (int(match[1]), os.strerror(int(match[1]))) if match else (None, None)


def write(path: Path, content: bytes | str) -> None:
    """Writes a file, text as UTF-8.

    Raises:
      DiskFullError, UnwritableError: as `writing`; the file then has its old content.
    """
    with replacing(path) as fresh:
        fresh.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file to, which then takes the place of `path`.

    Raises:
      DiskFullError, UnwritableError: as `writing`; the file then has its old content.
    """
    fresh = beside(path)
    with writing(path):
        try:
            yield fresh
            # Before the name: after a power cut a name without its content would be an empty file.
            sync(fresh)
            os.replace(fresh, path)
        finally:
            # After a successful rename there is nothing left under this name.
            fresh.unlink(missing_ok=True)
        # The rename changed the folder, which has to reach the disk as well.
        sync(path.parent)


def beside(path: Path) -> Path:
    """A hidden name on the same file system, so that renaming is atomic; the ending stays."""
    # Random, so that two writers of one file do not write into the same fresh one.
    return path.with_name(f".{secrets.token_hex(4)}.{path.name}")


def target(name: str) -> str:
    """The name of the file that a hidden name of `beside` is for; any other name as it is."""
    return HIDDEN.sub("", name)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> IO[str]:
    """The file of a lock, for every user who may write its folder.

    Raises:
      OSError: the folder cannot be written, or the file neither be written nor read.
    """
    try:
        file = path.open("a", encoding="utf-8")
    except PermissionError:
        # Of another user. A lock on a file that is read is as good, but on NFS.
        if not os.access(path.parent, os.W_OK):
            raise
        return path.open(encoding="utf-8")
    # A umask takes others the right to write what they may write the folder of.
    with contextlib.suppress(PermissionError):  # It is another user's, who has done so.
        os.chmod(file.fileno(), stat.S_IMODE(path.parent.stat().st_mode) & 0o666)
    return file


def lock(file: IO[str], place: Path, remedy: str, *, wait: float = 0.0) -> None:
    """Keeps an open file for this process until it is closed, or the process ends in any way.

    NFS has such locks as well. A file system without any, such as a mounted bucket, is used
    unlocked, which is better than no run there.

    Args:
      file: open; what it holds is left alone.
      place: what the file stands for.
      remedy: what to do where another process has it.
      wait: seconds until that process has to be done with it.

    Raises:
      InUseError: it is not.
    """
    # Only Unix has this module, and nothing else here needs it.
    import fcntl

    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= end:
                message = f"{place} is in use by another process; {remedy}"
                raise InUseError(message) from error
            # Of random length, so that none of several who wait always comes too late.
            time.sleep(random.uniform(0.001, 0.01))
        except OSError as error:
            if error.errno not in LOCKLESS:
                raise
            return
