"""Safetensors: eight bytes of header length, a JSON header, then the numbers without a gap."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from prompt_jax.weights.stored import (
    FLOATS,
    StoredTensor,
    at_extent,
    damaged,
    float_dtype,
    is_buffer,
    parsing,
)

TYPES = {
    **{"F64": FLOATS["float64"], "F32": FLOATS["float32"]},
    **{"F16": FLOATS["float16"], "BF16": FLOATS["bfloat16"]},
    **{"I8": np.dtype(np.int8), "U8": np.dtype(np.uint8), "I32": np.dtype(np.int32)},
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
"""What the format calls the types of weights, and of what weights of few bits are made of."""


def open_safetensors(file: Path) -> dict[str, StoredTensor]:
    """The weights of a .safetensors file.

    The format has no checksum. The header's length, its JSON, every extent and the length of the
    file are checked here, and that numbers are finite when they are read; a flipped bit that
    leaves a finite number goes unseen.

    Raises:
      InputError: the file is truncated or damaged, or holds weights of a type that is not known.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise damaged(file, f"its header should have {length} bytes, the file has {size}")
        text = stream.read(length)
    with parsing(file, "safetensors"):
        header = json.loads(text.decode())
        header.pop("__metadata__", None)
        rows = [
            (*map(int, row["data_offsets"]), name, row["dtype"], tuple(map(int, row["shape"])))
            for name, row in header.items()
        ]
        tensors, end = {}, 0
        for first, last, name, dtype, shape in sorted(rows):
            # The format has no gaps and no overlaps, in which other data could hide.
            if first != end:
                raise damaged(file, f"{name} begins at byte {first} and not at {end}")
            end = last
            if is_buffer(name):
                continue
            kind = TYPES.get(dtype) or float_dtype(file, name, str(dtype))
            tensors[name] = at_extent(file, name, 8 + length + first, last - first, shape, kind)
    if 8 + length + end != size:
        raise damaged(file, f"it has {size} bytes, its header describes {8 + length + end}")
    return tensors
