"""The tree of an adapter that PEFT saved, in the shapes of the backbone that it is put on.

PEFT's files tell neither how many heads a kernel's outputs belong to nor, of a prefix, how many
layers the decoder has. What is read from them has one head, and a prefix as many layers as PEFT
would fill, until a backbone says more.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Shape = tuple[int, ...]


def fitted(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The leaves by path, in the shapes of a backbone where they can be brought into them."""
    moved = {_place(path, shapes): leaf for path, leaf in arrays.items()}
    return {
        path: _fitted(path, leaf, tuple(shapes.get(path, leaf.shape)))
        for path, leaf in moved.items()
    }


def _place(path: str, shapes: Mapping[str, Any]) -> str:
    """The path of a leaf: a prefix of one attention is that of the backbone's only one."""
    *_, last = path.split("/")
    alike = [other for other in shapes if other.endswith(f"/attention/{last}")]
    prefix = last in ("key", "value") and path not in shapes
    return alike[0] if prefix and len(alike) == 1 else path


def _fitted(path: str, leaf: np.ndarray, wanted: Shape) -> np.ndarray:
    if path.rpartition("/")[2] in ("key", "value"):
        # Of a prefix [L, P, H, K], PEFT too leaves what is for layers that a decoder has not.
        return leaf[: wanted[0]] if leaf.shape[1:] == wanted[1:] else leaf
    return leaf.reshape(wanted) if _is_split(leaf.shape, wanted) else leaf


def _is_split(shape: Shape, wanted: Shape) -> bool:
    """Whether two shapes differ only in that axes (1, H * K) are (H, K) in the other.

    GPT-2's queries, keys and values are one kernel, so (1, 1, 3 * H * K) may be (3, H, K).
    """
    return len(shape) == len(wanted) and any(
        shape[i : i + ones] == (1,) * ones
        and shape[i + ones] == math.prod(wanted[i : i + ones + 1])
        and (*shape[:i], *shape[i + ones + 1 :]) == (*wanted[:i], *wanted[i + ones + 1 :])
        for ones in (1, 2)
        for i in range(1, len(shape) - ones)
    )
