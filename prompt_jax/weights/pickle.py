"""PyTorch's pickles, read and written without torch; nothing that they ask for is run.

A pickle is a program. The reader admits the few words that a state dict is written with and
answers every other one with an error, before anything of it is called.
"""

import collections
import io
import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from prompt_jax.config import InputError
from prompt_jax.weights.stored import StoredTensor, damaged, float_dtype, is_buffer, parsing

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "bytes",
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
"""How `torch.nn.Parameter`s are written: around the tensor that they hold."""
NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Where training checkpoints keep the model's weights, beside steps and optimizers: Lightning,
PyTorch's tutorials, fairseq, DeepSpeed."""

Storage = tuple[str, str]  # The name of the type, the key of the bytes.
Loaded: TypeAlias = tuple[Any, Callable[[str], bytes]]
"""What was pickled, and what reads the bytes of a storage in it by its key."""


class _Tensor(tuple):
    """(storage, offset, size, stride), apart from the tuples that a pickle may hold itself."""

    # Without a __dict__, so that a pickle cannot assign attributes to it.
    __slots__ = ()


class _StateDictUnpickler(pickle.Unpickler):
    """Builds dicts and `_Tensor`s from a pickle, and refuses the rest."""

    def __init__(self, stream: Any, file: Path):
        super().__init__(stream)
        self.file = file
        self.storages: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        # The results are strings, a new function and an immutable type: a pickle may assign
        # attributes to whatever it is given here, and must not reach anything that is shared.
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _Tensor(arguments[:4])  # The rest is about gradients.
        if module == "torch._utils" and name in PARAMETERS:
            return lambda tensor, *about_gradients: tensor
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise InputError(
            f"{self.file}: refused {module}.{name}; a .bin may hold tensors and nothing else. "
            f"Do not open it with other tools, and look for a .safetensors of the same model"
        )

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key = pid[:3]
        if kind != "storage" or not isinstance(key, str) or not isinstance(dtype, str):
            raise pickle.UnpicklingError(f"persistent id of an unknown kind {kind!r}")
        self.storages[key] = dtype
        return dtype, key


def open_pickle(file: Path) -> dict[str, StoredTensor]:
    """The weights of a `pytorch_model.bin`, in torch's zip format or the one before it.

    A training checkpoint that keeps them in a dict of its own, see `NESTED`, is read as well.

    Raises:
      InputError: the pickle asks for anything but tensors, or the file is truncated or damaged.
    """
    tree, read = _load(file)
    if not isinstance(tree, dict):
        raise damaged(file, f"expected a dict of tensors, got a {type(tree).__name__}")
    if not any(isinstance(value, _Tensor) for value in tree.values()):
        tree = next((tree[key] for key in NESTED if isinstance(tree.get(key), dict)), tree)
    return {
        name: _tensor(file, name, value, read)
        for name, value in tree.items()
        if not is_buffer(str(name))
    }


def open_tensor(file: Path) -> StoredTensor:
    """The one tensor that `torch.save(tensor, file)` wrote.

    Raises:
      InputError: as `open_pickle`.
    """
    tree, read = _load(file)
    if not isinstance(tree, _Tensor):
        raise damaged(file, f"expected one tensor, got a {type(tree).__name__}")
    return _tensor(file, file.name, tree, read)


def tensor_bytes(array: np.ndarray) -> bytes:
    """What `torch.save(tensor, file)` writes: `torch.load(weights_only=True)` reads it.

    Args:
      array: its dtype is one of `STORAGES`.
    """
    storage = next(name for name, dtype in STORAGES.items() if dtype == array.dtype.name)
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    program = b"".join(
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((",
            *(_text("storage"), b"ctorch\n", storage.encode(), b"\n"),
            *(_text("0"), _text("cpu"), _whole(array.size), b"tQ", _whole(0)),
            *(_tuple(array.shape), _tuple(strides)),
            # Needs no gradient, and has no hooks.
            b"\x89ccollections\nOrderedDict\n)RtR.",
        )
    )
    numbers = np.ascontiguousarray(array)
    files = {
        **{"data.pkl": program, "byteorder": sys.byteorder.encode()},
        **{"data/0": numbers.tobytes(), "version": b"3\n"},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            # Without the time of day, so that equal tensors are equal bytes.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
    return buffer.getvalue()


def _text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def _whole(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _tuple(numbers: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_whole, numbers)) + b"t"


def _load(file: Path) -> Loaded:
    """What a file holds, and how to read the bytes of a storage."""
    with file.open("rb") as stream:
        zipped = stream.read(4) == b"PK\x03\x04"
    with parsing(file, "a PyTorch state dict"):
        return _load_zip(file) if zipped else _load_legacy(file)


def _load_zip(file: Path) -> Loaded:
    with zipfile.ZipFile(file) as archive:
        (program,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        tree = _StateDictUnpickler(io.BytesIO(archive.read(program)), file).load()
    root = program.removesuffix("data.pkl")

    def read(key: str) -> bytes:
        # The archive keeps a checksum of every storage, and reading it whole checks it.
        with parsing(file, "a PyTorch state dict"), zipfile.ZipFile(file) as archive:
            return archive.read(f"{root}data/{key}")

    return tree, read


def _load_legacy(file: Path) -> Loaded:
    """Torch before 1.6: three pickles of preamble, the state dict, the keys, then every storage."""
    with file.open("rb") as stream:
        if _StateDictUnpickler(stream, file).load() != LEGACY_MAGIC:
            raise damaged(file, "it does not begin as a PyTorch file")
        for _ in ("protocol", "system"):
            _StateDictUnpickler(stream, file).load()
        unpickler = _StateDictUnpickler(stream, file)
        tree = unpickler.load()
        extents = _legacy_extents(stream, file, unpickler.storages)

    def read(key: str) -> bytes:
        offset, size = extents[key]
        with file.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    return tree, read


def _legacy_extents(
    stream: io.BufferedIOBase, file: Path, types: dict
) -> dict[str, tuple[int, int]]:
    """Where the bytes of every storage lie: a count of elements, then the elements."""
    extents, end = {}, file.stat().st_size
    for key in _StateDictUnpickler(stream, file).load():
        (count,) = struct.unpack("<q", stream.read(8))
        size = count * float_dtype(file, f"storage {key}", types[key]).itemsize
        extents[key] = (stream.tell(), size)
        if not 0 <= size <= end - stream.tell():
            raise damaged(file, f"storage {key} ends behind the end of the file")
        stream.seek(size, io.SEEK_CUR)
    return extents


def _tensor(file: Path, name: Any, value: Any, read: Callable[[str], bytes]) -> StoredTensor:
    if not isinstance(name, str) or not isinstance(value, _Tensor):
        raise damaged(file, f"expected a dict of tensors, {name!r} is a {type(value).__name__}")
    (kind, key), offset, size, stride = value
    dtype = float_dtype(file, name, kind)
    strides = tuple(step * dtype.itemsize for step in stride)

    def load() -> np.ndarray:
        # The constructor checks shape and strides against the length of the buffer.
        with parsing(file, f"whole: {name} lies outside its storage"):
            return np.ndarray(size, dtype, read(key), offset * dtype.itemsize, strides)

    return StoredTensor(tuple(size), dtype, load)
