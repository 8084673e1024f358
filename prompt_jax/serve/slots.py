"""What a prompt puts into a slot of the bank, and the room that it takes there.

A slot has room for all that any of its prompts puts into the model. What a prompt does not use is
neutral, and its virtual tokens stand on the right of their room, so that a row has the numbers it
would have alone.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import flax.traverse_util
import jax
import numpy as np

from prompt_jax.config import PLACEMENTS, InputError
from prompt_jax.forward import Injection

Layout: TypeAlias = dict[str, tuple[int, ...]]
"""Path of a leaf -> its shape in one slot."""
Leaves: TypeAlias = Mapping[str, np.ndarray]
"""Path of a leaf -> its numbers, on the host."""
VIRTUAL = {"prompt": 0, "mask": 0, "prefix/key": -3, "prefix/value": -3, "prefix/mask": -1}
VIRTUAL |= {"prompt/add": -2, "inside/prompt": -2, "behind/prompt": -2}
VIRTUAL |= {"inside/mask": -1, "behind/mask": -1}
"""End of a path -> which of its axes are virtual tokens; those are padded in front."""
SEEN = ("prefix/key", "inside/prompt", "behind/prompt")
"""Ends of the paths of what an attention reads, whose masks stand beside them."""
FACTORS = ("scale", "input_scale")
"""Leaves whose neutral value is one; that of all others is zero."""


def content_of(leaves: Leaves) -> str:
    """sha256 of leaves: what has the same may share a slot."""
    content = hashlib.sha256()
    for path, leaf in sorted(leaves.items()):
        content.update(f"{path}{leaf.shape}".encode() + leaf.tobytes())
    return content.hexdigest()


def layout_of(injections: Iterable[Injection]) -> Layout:
    """The smallest slot that each of these fits into."""
    layout: Layout = {}
    for injection in injections:
        for path, leaf in leaves_of(injection).items():
            shape = layout.get(path, leaf.shape)
            if len(shape) != leaf.ndim:
                raise InputError(
                    f"{path} is {list(leaf.shape)} in one prompt and {list(shape)} in another; "
                    "prompts of one bank are of one backbone"
                )
            layout[path] = tuple(map(max, shape, leaf.shape))
    return layout


def leaves_of(injection: Injection) -> dict[str, np.ndarray]:
    """The leaves of an injection by path, with masks of what is virtual."""
    _check_rows_apart(injection)
    leaves: dict[str, np.ndarray] = {}
    if injection.prompt is not None:
        leaves["prompt"] = np.asarray(injection.prompt, np.float32)
        real = injection.prompt_mask
        leaves["mask"] = np.ones(len(leaves["prompt"]), bool) if real is None else np.asarray(real)
        if injection.placement != "prefix":
            leaves["place"] = np.array(PLACEMENTS.index(injection.placement), np.int32)
    if injection.shift is not None:
        leaves["shift"] = np.asarray(injection.shift, np.float32)
    head = flax.traverse_util.flatten_dict(injection.head or {}, sep="/")
    leaves.update({f"head/{path}": np.asarray(leaf, np.float32) for path, leaf in head.items()})
    sockets: dict[str, Any] = flax.traverse_util.flatten_dict(injection.sockets, sep="/")
    for path, leaf in sockets.items():
        if path.endswith("lora/dropout"):  # A matter of training; no answer has dropout.
            continue
        leaves[f"sockets/{path}"] = np.asarray(leaf, bool if _is_mask(path) else np.float32)
        # Keys without a mask are real throughout. In a longer slot they need one, since the
        # attention would see the zeros in front of them.
        end = next((end for end in SEEN if path.endswith(end)), None)
        mask = f"{path.removesuffix(end.rpartition('/')[2])}mask" if end else path
        if end and mask not in sockets:
            length = leaf.shape[VIRTUAL[end]]
            leaves[f"sockets/{mask}"] = np.ones((leaf.shape[0], length), bool)
    return leaves


def check_room(leaves: Leaves, layout: Layout) -> None:
    """Checks that leaves fit into a slot."""
    for path, leaf in leaves.items():
        room = layout.get(path)
        if room is None or any(a > b for a, b in zip(leaf.shape, room, strict=True)):
            raise InputError(
                f"{path} is {list(leaf.shape)} and a slot has "
                f"{'no room for it' if room is None else list(room)}; {_remedy(path, leaf)}"
            )


def _remedy(path: str, leaf: np.ndarray) -> str:
    """What makes room for a leaf."""
    if path in ("prompt", "mask"):
        return f"serve with --num-virtual-tokens {len(leaf)}, or give the engine room for as many"
    if path.endswith("lora/a"):
        return f"serve with --lora-rank {leaf.shape[-1]}, or give the engine room for that rank"
    return "serve with --room METHOD, or have such a prompt in the store when the server starts"


def fitted(leaves: Leaves, layout: Layout) -> dict[str, np.ndarray]:
    """Leaves in the room of a slot."""
    check_room(leaves, layout)
    slot = neutral(layout)
    for path, leaf in leaves.items():
        axis = next((axis for end, axis in VIRTUAL.items() if _ends(path, end)), None)
        place = [slice(0, size) for size in leaf.shape]
        if axis is not None:
            # Padding goes in front of virtual tokens: between them and the text it would shift the
            # distances that a model with relative positions sees.
            place[axis] = slice(layout[path][axis] - leaf.shape[axis], None)
        slot[path][tuple(place)] = leaf
    return slot


def neutral(layout: Layout) -> dict[str, np.ndarray]:
    """A slot that leaves the model as it is."""
    return {path: _neutral(path, shape) for path, shape in layout.items()}


def _neutral(path: str, shape: tuple[int, ...]) -> np.ndarray:
    # A virtual token that is masked has no effect, so a neutral mask is False throughout.
    if path == "place":
        return np.zeros(shape, np.int32)  # In front, the first of `PLACEMENTS`.
    if _is_mask(path):
        return np.zeros(shape, bool)
    return np.full(shape, float(path.rpartition("/")[2] in FACTORS), np.float32)


def _is_mask(path: str) -> bool:
    return path.rpartition("/")[2] == "mask"


def _ends(path: str, end: str) -> bool:
    return path == end if "/" not in end else path.endswith(f"/{end}")


def _check_rows_apart(injection: Injection) -> None:
    """Checks that every row of a batch can have an injection of this kind for itself."""
    leaves = flax.traverse_util.flatten_dict(injection.sockets, sep="/")
    refused = {
        "weights of its own": injection.params is not None,
        "a head that reads virtual tokens": bool(injection.pool_prompt),
        "a prompt for each row": injection.prompt is not None and injection.prompt.ndim > 2,
        "states that replace those of the text": any(p.endswith("prompt/replace") for p in leaves),
        "virtual tokens before the target": "decoder/prompt" in leaves,
        "the norms of DoRA": any(p.endswith("lora/magnitude") for p in leaves),
    }
    reasons = [reason for reason, applies in refused.items() if applies]
    if reasons:
        raise InputError(
            f"the prompt has {' and '.join(reasons)}, which rows of a batch cannot have each for "
            "itself; answer with it alone"
        )
    numbers = [injection.prompt, injection.shift, injection.head, injection.sockets]
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(numbers)):
        raise InputError("the prompt holds NaN or inf; it is damaged or its training diverged")
