"""Flax's msgpack trees, walked without holding their arrays.

Flax writes an array as an extension of type 1, itself a msgpack of [shape, dtype, bytes], and one
above 1 GiB as a dict of such chunks.
"""

import io
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prompt_jax.weights.stored import (
    StoredTensor,
    at_extent,
    damaged,
    float_dtype,
    parsing,
    transposed,
)

# msgpack's float 32 and 64, uint 8 to 64 and int 8 to 64, as `struct` calls them.
NUMBERS = dict(zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True))
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
CHUNKED = "__msgpack_chunked_array__"


class Extent(NamedTuple):
    """Bytes of a stream that were skipped: a binary or an extension."""

    offset: int
    size: int


class Array(NamedTuple):
    """An array that stands in a tree."""

    shape: tuple[int, ...]
    dtype: str
    bytes: Extent


def open_msgpack(file: Path) -> dict[str, StoredTensor]:
    """The weights of a `flax_model.msgpack`, under torch's names and in torch's orientation.

    Raises:
      InputError: the file is truncated or damaged.
    """
    with parsing(file, "a Flax tree"):
        with file.open("rb") as stream:
            tree = walk(stream)
            if stream.read(1):
                raise ValueError("there are bytes behind the tree")
        return {
            torch_name(name): transposed(tensor) if name.endswith("kernel") else tensor
            for name, tensor in stored(file, tree).items()
        }


def torch_name(name: str) -> str:
    """`encoder/block/0/layer/0/SelfAttention/q/kernel` is `encoder.block.0...q.weight`."""
    parts = name.split("/")
    leaf = "weight" if parts[-1] in ("kernel", "embedding") else parts[-1]
    return ".".join([*parts[:-1], leaf])


def stored(file: Path, tree: dict[str, Any], prefix: str = "") -> dict[str, StoredTensor]:
    """The arrays of a walked tree under their paths, `a/b/c`."""
    tensors = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Array):
            tensors[name] = _one(file, name, value)
        elif value.get(CHUNKED):
            tensors[name] = _chunked(file, name, value)
        else:
            tensors |= stored(file, value, f"{name}/")
    return tensors


def _one(file: Path, name: str, array: Array) -> StoredTensor:
    dtype = float_dtype(file, name, array.dtype)
    return at_extent(file, name, *array.bytes, array.shape, dtype)


def _chunked(file: Path, name: str, value: dict[str, Any]) -> StoredTensor:
    shape = tuple(value["shape"][str(i)] for i in range(len(value["shape"])))
    chunks = [_one(file, name, value["chunks"][str(i)]) for i in range(len(value["chunks"]))]
    if sum(math.prod(chunk.shape) for chunk in chunks) != math.prod(shape):
        raise damaged(file, f"the chunks of {name} do not make {list(shape)}")

    def read() -> np.ndarray:
        return np.concatenate([chunk.read().ravel() for chunk in chunks]).reshape(shape)

    return StoredTensor(shape, chunks[0].dtype, read)


def walk(stream: io.BufferedIOBase) -> Any:
    """The next object of a msgpack stream, with an `Array` or an `Extent` for what is large.

    Raises:
      EOFError: the stream ends inside the object.
      ValueError: a byte that no object begins with.
    """
    head = _take(stream, 1)[0]
    # Fixint: the byte is the number.
    if head < 0x80 or head >= 0xE0:
        return head - (256 if head >= 0xE0 else 0)
    if head in CONSTANTS:
        return CONSTANTS[head]
    if head in NUMBERS:
        return _number(stream, NUMBERS[head])
    # Fixmap, map 16 and map 32.
    if head < 0x90 or head in (0xDE, 0xDF):
        size = head & 0x0F if head < 0x90 else _number(stream, "HI"[head - 0xDE])
        return {walk(stream): walk(stream) for _ in range(size)}
    # Fixarray, array 16 and array 32.
    if head < 0xA0 or head in (0xDC, 0xDD):
        size = head & 0x0F if head < 0xA0 else _number(stream, "HI"[head - 0xDC])
        return [walk(stream) for _ in range(size)]
    # Fixstr and str 8 to 32.
    if head < 0xC0 or 0xD9 <= head <= 0xDB:
        size = head & 0x1F if head < 0xC0 else _number(stream, "BHI"[head - 0xD9])
        return _take(stream, size).decode()
    # Bin 8 to 32.
    if 0xC4 <= head <= 0xC6:
        return _skip(stream, _number(stream, "BHI"[head - 0xC4]))
    # Ext 8 to 32.
    if 0xC7 <= head <= 0xC9:
        return _extension(stream, _number(stream, "BHI"[head - 0xC7]))
    # Fixext of 1 to 16 bytes.
    if 0xD4 <= head <= 0xD8:
        return _extension(stream, 1 << (head - 0xD4))
    raise ValueError(f"no object begins with {head:#x}")


def _extension(stream: io.BufferedIOBase, size: int) -> Array | Extent:
    """An array when the extension is Flax's for arrays, its extent when not."""
    kind = _number(stream, "b")
    if kind != 1:
        return _skip(stream, size)
    shape, dtype, data = walk(stream)
    return Array(tuple(shape), dtype, data)


def _skip(stream: io.BufferedIOBase, size: int) -> Extent:
    extent = Extent(stream.tell(), size)
    if size:
        # A seek passes the end of a file without an error, and reading the last byte does not.
        stream.seek(size - 1, 1)
        _take(stream, 1)
    return extent


def _take(stream: io.BufferedIOBase, size: int) -> bytes:
    taken = stream.read(size)
    if len(taken) < size:
        raise EOFError(f"it ends inside an object, {size - len(taken)} bytes too early")
    return taken


def _number(stream: io.BufferedIOBase, kind: str) -> Any:
    return struct.unpack(f">{kind}", _take(stream, struct.calcsize(f">{kind}")))[0]
