"""A weight in a file: shape and type are known at once, the numbers are read on demand.

Every format opens as a dict of these, under the names and in the orientation of Hugging Face's
torch models. So the rest knows one naming, and no model is ever held twice.
"""

import contextlib
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from prompt_jax.config import InputError

FLOATS = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
BUFFERS = (
    *(".position_ids", ".token_type_ids"),
    *(".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"),
    *(".attention.bias", ".attention.masked_bias"),
)
"""Ends of the names of tables and masks that BERT and decoders kept with their weights."""
MALFORMED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)
"""What parsers raise when they meet bytes that are not theirs."""


WRAPPERS = ("module.", "_orig_mod.")
"""What PyTorch's wrappers put before every name: DataParallel and FSDP, `torch.compile`."""


class StoredTensor(NamedTuple):
    """One weight of a checkpoint."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    """Reads the numbers, every time anew: the caller decides how long they live."""
    read_rows: Callable[[int, int], np.ndarray] | None = None
    """Reads rows from a first to before a last one; None where a file cannot be read so."""


def transposed(tensor: StoredTensor) -> StoredTensor:
    """The same weight with its axes reversed; JAX stores [in, out] where torch stores [out, in]."""
    # No rows: those of the turned matrix are columns in the file, which are not read alone.
    return StoredTensor(tensor.shape[::-1], tensor.dtype, lambda: tensor.read().T)


def reordered(tensor: StoredTensor, order: np.ndarray) -> StoredTensor:
    """The same weight with row `order[i]` as row i."""
    read_some = tensor.read_rows

    def read_rows(first: int, last: int) -> np.ndarray:
        assert read_some is not None
        rows = order[first:last]
        lowest = int(rows.min())
        return read_some(lowest, int(rows.max()) + 1)[rows - lowest]

    rows = None if read_some is None else read_rows
    return StoredTensor(tensor.shape, tensor.dtype, lambda: tensor.read()[order], rows)


def at_extent(
    file: Path, name: str, offset: int, size: int, shape: tuple[int, ...], dtype: np.dtype
) -> StoredTensor:
    """The weight whose bytes lie at `offset` of `file`.

    Read, not mapped: the pages of a mapped file count as memory of the process until they go.

    Raises:
      InputError: the bytes lie outside the file, or are too few or too many for the shape.
    """
    if size != math.prod(shape) * dtype.itemsize:
        raise damaged(file, f"{name} has {size} bytes, which do not make {dtype}{list(shape)}")
    if offset + size > file.stat().st_size:
        raise damaged(file, f"{name} ends behind the end of the file")

    def read_rows(first: int, last: int) -> np.ndarray:
        row = math.prod(shape[1:]) * dtype.itemsize
        start, count = offset + first * row, (last - first) * row
        rows = np.fromfile(file, np.uint8, count, offset=start).view(dtype)
        return rows.reshape(last - first, *shape[1:])

    def read() -> np.ndarray:
        return np.fromfile(file, np.uint8, size, offset=offset).view(dtype).reshape(shape)

    return StoredTensor(shape, dtype, read, read_rows if shape else None)


def damaged(file: Path | str, why: str) -> InputError:
    """The error for a file that is not what it should be."""
    return InputError(f"{file} is truncated or damaged: {why}; download or copy it again")


@contextlib.contextmanager
def parsing(file: Path | str, kind: str) -> Iterator[None]:
    """Gives one answer for the many errors of a parser that meets a damaged file.

    Raises:
      InputError: the file is not a `kind`.
    """
    try:
        yield
    except InputError:
        raise
    except MALFORMED as error:
        raise damaged(file, f"not {kind} ({error or type(error).__name__})") from error


def unwrapped(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The weights by the model's own names, where a wrapper was saved with its model."""
    for wrapper in WRAPPERS * 2:  # One may be around the other, in either order.
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def is_buffer(name: str) -> bool:
    """Whether a tensor is no weight but a table that old checkpoints keep and nothing reads."""
    return name.endswith(BUFFERS)


def float_dtype(file: Path | str, name: str, dtype: str) -> np.dtype:
    """The numpy type called `dtype`.

    Raises:
      InputError: not a floating type, so a quantised model or no model at all.
    """
    if dtype not in FLOATS:
        raise InputError(
            f"{file}: {name} is {dtype}; allowed: {', '.join(FLOATS)}; use a checkpoint that is "
            "not quantised, or whose config.json has a quantization_config"
        )
    return FLOATS[dtype]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      InputError: the file holds something else.
    """
    with parsing(file, "JSON"):
        values = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise damaged(file, f"expected a JSON object, got a {type(values).__name__}")
    return values
