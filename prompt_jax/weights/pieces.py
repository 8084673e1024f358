"""The pieces of a leaf that the devices of this process hold, filled block by block from a file.

A process has no more of a model on its host than its pieces of one leaf and one block of a file.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike

from prompt_jax.weights.stored import StoredTensor

BLOCK = 4 * 2**20
"""Bytes of a file that are read at once, as float32."""
ALIGNMENT = 64
"""Bytes that the address of an array must be a multiple of, for XLA to use it as it is."""


class Layout(NamedTuple):
    """How one layer of a leaf stands in a file: as a matrix, each side of some of its axes."""

    stacked: bool
    """Whether layers stand in front of the leaf."""
    first: int
    """So many axes of a layer are the one side, the others the other."""
    turned: bool
    """Whether the file has the other side first."""


class Piece(NamedTuple):
    """What the devices of one index of a sharding hold."""

    values: np.ndarray
    matrices: np.ndarray
    """A view of them, for every layer a matrix as the file has it."""
    rows: np.ndarray
    """Which rows of the file's matrix these are, ascending."""
    columns: np.ndarray | slice

    def put(self, layer: int, first: int, block: np.ndarray) -> None:
        """Takes its part of rows `first` and later of a layer."""
        # Rows are ascending, so those of a block are neighbours among them.
        start, end = np.searchsorted(self.rows, (first, first + len(block)))
        if start < end:
            part = block[_slice(self.rows[start:end] - first)]
            self.matrices[layer, start:end] = part[:, self.columns]


def make_leaf(
    shape: tuple[int, ...],
    dtype: DTypeLike,
    sharding: Sharding | None,
    layout: Layout,
    fill: Callable[[Sequence[Piece]], None],
) -> jax.Array:
    """A leaf on its devices, on the default one when `sharding` is None.

    Args:
      fill: puts the numbers into the pieces.
    """
    if sharding is None:
        piece = _piece((slice(None),) * len(shape), shape, dtype, layout)
        fill([piece])
        # Waited for, since a transfer under way keeps the host's memory of a leaf.
        return jax.device_put(piece.values).block_until_ready()
    indices = sharding.addressable_devices_indices_map(shape).values()
    # Devices with copies of the same part have one index, and share a piece.
    pieces = {_key(i): _piece(i, shape, dtype, layout) for i in indices if i is not None}
    fill(list(pieces.values()))
    leaf = jax.make_array_from_callback(shape, sharding, lambda i: pieces[_key(i or ())].values)
    return leaf.block_until_ready()


def read_blocks(
    tensor: StoredTensor, pieces: Sequence[Piece], *, every_row: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers of the first row, and rows as contiguous float32 matrices.

    Args:
      every_row: also reads rows that no piece needs.
    """
    if tensor.read_rows is None:
        yield 0, _matrix(tensor.read())
        return
    width = math.prod(tensor.shape[1:])
    step = max(1, BLOCK // (4 * max(width, 1)))
    for first in range(0, tensor.shape[0], step):
        last = min(first + step, tensor.shape[0])
        if not every_row:
            needed = np.concatenate([piece.rows for piece in pieces])
            needed = needed[(needed >= first) & (needed < last)]
            if not needed.size:
                continue
            first, last = int(needed.min()), int(needed.max()) + 1
        yield first, _matrix(tensor.read_rows(first, last))


def _matrix(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).reshape(len(values), -1)


def _piece(
    index: tuple[slice, ...], shape: tuple[int, ...], dtype: DTypeLike, layout: Layout
) -> Piece:
    ranges = [range(*part.indices(size)) for part, size in zip(index, shape, strict=True)]
    values = _aligned([len(part) for part in ranges], dtype)
    front = int(layout.stacked)
    cut = front + layout.first
    sides = [_flat(ranges[front:cut], shape[front:cut]), _flat(ranges[cut:], shape[cut:])]
    matrices = values.reshape(-1 if layout.stacked else 1, len(sides[0]), len(sides[1]))
    if layout.turned:
        sides, matrices = sides[::-1], matrices.swapaxes(1, 2)
    return Piece(values, matrices, sides[0], _slice(sides[1]))


def _aligned(shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
    """An empty array at an address that JAX takes over on a CPU, where it would copy any other.

    So a leaf is never in memory twice.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def _flat(ranges: Sequence[range], shape: Sequence[int]) -> np.ndarray:
    """Which numbers of a row-major side these ranges of its axes are."""
    places = np.arange(math.prod(shape)).reshape(shape)
    return places[tuple(slice(part.start, part.stop) for part in ranges)].ravel()


def _slice(places: np.ndarray) -> np.ndarray | slice:
    """Ascending places as a slice where they have no gap, which numpy copies without an index."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first == len(places) - 1 else places


def _key(index: tuple[slice, ...]) -> tuple:
    return tuple((part.start, part.stop) for part in index)
