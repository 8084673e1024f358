"""The content of a file as lines of text; every error says the line."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from prompt_jax.config import InputError


def decode_lines(name: str, content: bytes) -> list[str]:
    """The lines of a UTF-8 text, empty ones too; Windows line ends and a byte order mark go.

    Raises:
      InputError: a byte that is not UTF-8, with `name` and the line.
    """
    # str.splitlines would also break a text at U+2028 and U+0085.
    lines = decode(name, content).removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


def decode(name: str, content: bytes) -> str:
    """The text of UTF-8 bytes, without a byte order mark; raises as `decode_lines`."""
    try:
        return content.decode("utf-8-sig")  # Spreadsheets begin their csv with a byte order mark.
    except UnicodeDecodeError as error:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(
                f"{name} is UTF-16, as Excel's Unicode text is; save it as UTF-8 (e.g. iconv -f "
                "utf-16 -t utf-8)"
            ) from error
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name} line {line}: byte 0x{content[error.start]:02x} at offset {error.start} is not "
            "UTF-8; save the file as UTF-8 (e.g. iconv -f latin1 -t utf-8)"
        ) from error


def line_of(path: Path, lines: Sequence[int]) -> Callable[[int], str]:
    """Where a row stands, by its number from 0."""
    numbers, name = np.array(lines), path.name
    return lambda row: f"{name} line {numbers.item(row)}"


def digest(content: bytes) -> str:
    """By which the same content is known again."""
    return hashlib.sha256(content).hexdigest()
