"""Safetensors: eight bytes of header length, a JSON header, then the numbers without a gap."""

import json
from pathlib import Path

from prompt_jax.weights.stored import (
    StoredTensor,
    at_extent,
    damaged,
    float_dtype,
    is_buffer,
    parsing,
)

NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def open_safetensors(file: Path) -> dict[str, StoredTensor]:
    """The weights of a .safetensors file.

    The format has no checksum. The header's length, its JSON, every extent and the length of the
    file are checked here, and that numbers are finite when they are read; a flipped bit that
    leaves a finite number goes unseen.

    Raises:
      InputError: the file is truncated or damaged, or holds weights that are not floating.
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
            if first != end:
                raise damaged(file, f"{name} begins at byte {first} and not at {end}")
            end = last
            if is_buffer(name):
                continue
            kind = float_dtype(file, name, NAMES.get(dtype) or str(dtype))
            tensors[name] = at_extent(file, name, 8 + length + first, last - first, shape, kind)
    if 8 + length + end != size:
        raise damaged(file, f"it has {size} bytes, its header describes {8 + length + end}")
    return tensors
