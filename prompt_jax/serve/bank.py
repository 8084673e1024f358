"""Prompts of any method and length on the device, a slot each; a batch gathers a slot a row.

A slot has room for all that any of its prompts puts into the model: what a prompt does not use is
neutral, and its virtual tokens stand on the right of their room, so that a row has the numbers it
would have alone. Putting a prompt into a slot changes numbers and no shape: nothing is compiled.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from prompt_jax.config import InputError
from prompt_jax.forward import Injection

Layout = dict[str, tuple[int, ...]]
"""Path of a leaf -> its shape in one slot."""
VIRTUAL = {"prompt": 0, "mask": 0, "prefix/key": -3, "prefix/value": -3, "prefix/mask": -1}
VIRTUAL["prompt/add"] = -2
"""End of a path -> which of its axes are virtual tokens; those are padded in front."""
FACTORS = ("scale", "input_scale")
"""Leaves whose neutral value is one; that of all others is zero."""


class Bank:
    """N slots of one layout.

    Args:
      layout: of a slot, see `layout_of`.
      slots: N.
    """

    def __init__(self, layout: Layout, slots: int):
        self.layout, self.slots = dict(layout), slots
        empty = neutral(layout)
        self._leaves = {
            path: jnp.asarray(np.broadcast_to(leaf, (slots, *leaf.shape)).copy())
            for path, leaf in empty.items()
        }

    def put(self, slot: int, leaves: Mapping[str, np.ndarray]) -> None:
        """Takes a prompt into a slot, in place of what was there.

        Args:
          leaves: as `flat` gives them.

        Raises:
          InputError: they need room that the layout has not.
        """
        self._leaves = _put(self._leaves, np.int32(slot), fitted(leaves, self.layout))

    def clear(self, slot: int) -> None:
        """Makes a slot neutral: its rows have the plain model."""
        self._leaves = _put(self._leaves, np.int32(slot), neutral(self.layout))

    @property
    def leaves(self) -> dict[str, Array]:
        """All slots, [N, ...] by path; an argument of a compiled program."""
        return self._leaves

    @property
    def bytes(self) -> int:
        """On the device."""
        return sum(leaf.nbytes for leaf in self._leaves.values())


@functools.partial(jax.jit, donate_argnums=0)
def _put(leaves: dict[str, Array], slot: Int[Any, ""], own: dict[str, Any]) -> dict[str, Array]:
    return {path: leaf.at[slot].set(own[path]) for path, leaf in leaves.items()}


def rows_of(leaves: Mapping[str, Array], slots: Int[Any, " B"]) -> Injection:
    """What every row of a batch puts into the model, by the slots of the rows."""
    own = {path: leaf[slots] for path, leaf in leaves.items()}
    # Leaves of stacked layers have L in front, and rows behind it.
    return injection_of(
        {path: leaf.swapaxes(0, 1) if "/layers/" in path else leaf for path, leaf in own.items()}
    )


def injection_of(own: Mapping[str, Array]) -> Injection:
    """The leaves of one slot, or those of the rows of a batch, as they go into the model."""
    trees: dict[str, Any] = flax.traverse_util.unflatten_dict(dict(own), sep="/")
    return Injection(
        prompt=own.get("prompt"),
        prompt_mask=own.get("mask"),
        shift=own.get("shift"),
        sockets=trees.get("sockets", {}),
        head=trees.get("head"),
    )


def layout_of(injections: Iterable[Injection]) -> Layout:
    """The smallest slot that each of these fits into.

    Raises:
      InputError: one of them cannot be one row's alone, or two have one leaf of other ranks.
    """
    layout: Layout = {}
    for injection in injections:
        for path, leaf in flat(injection).items():
            known = layout.get(path, leaf.shape)
            if len(known) != leaf.ndim:
                raise InputError(
                    f"{path} is {list(leaf.shape)} in one prompt and {list(known)} in another; "
                    "prompts of one bank are of one backbone"
                )
            layout[path] = tuple(map(max, known, leaf.shape))
    return layout


def flat(injection: Injection) -> dict[str, np.ndarray]:
    """The leaves of an injection by path, with masks of what is virtual.

    Raises:
      InputError: a row of a batch cannot have it for itself.
    """
    _check(injection)
    leaves: dict[str, np.ndarray] = {}
    if injection.prompt is not None:
        leaves["prompt"] = np.asarray(injection.prompt, np.float32)
        real = injection.prompt_mask
        leaves["mask"] = np.ones(len(leaves["prompt"]), bool) if real is None else np.asarray(real)
    if injection.shift is not None:
        leaves["shift"] = np.asarray(injection.shift, np.float32)
    head: dict[str, Any] = flax.traverse_util.flatten_dict(injection.head or {}, sep="/")
    leaves.update({f"head/{path}": np.asarray(leaf, np.float32) for path, leaf in head.items()})
    sockets: dict[str, Any] = flax.traverse_util.flatten_dict(injection.sockets, sep="/")
    for path, leaf in sockets.items():
        if path.endswith("lora/dropout"):  # Of training.
            continue
        kind = bool if path.endswith("prefix/mask") else np.float32
        leaves[f"sockets/{path}"] = np.asarray(leaf, kind)
        mask = path.replace("prefix/key", "prefix/mask")
        if mask != path and mask not in sockets:
            leaves[f"sockets/{mask}"] = np.ones((leaf.shape[0], leaf.shape[-3]), bool)
    return leaves


def check_room(leaves: Mapping[str, np.ndarray], layout: Layout) -> None:
    """Whether leaves fit into a slot.

    Raises:
      InputError: they need more than it has.
    """
    for path, leaf in leaves.items():
        room = layout.get(path)
        if room is None or any(a > b for a, b in zip(leaf.shape, room, strict=True)):
            raise InputError(
                f"{path} is {list(leaf.shape)} and a slot has "
                f"{'no room for it' if room is None else list(room)}; make a bank whose layout "
                "has this prompt in it"
            )


def fitted(leaves: Mapping[str, np.ndarray], layout: Layout) -> dict[str, np.ndarray]:
    """Leaves in the room of a slot.

    Raises:
      InputError: as `check_room`.
    """
    check_room(leaves, layout)
    made = neutral(layout)
    for path, leaf in leaves.items():
        axis = next((a for end, a in VIRTUAL.items() if _ends(path, end)), None)
        place = [slice(0, size) for size in leaf.shape]
        if axis is not None:
            place[axis] = slice(layout[path][axis] - leaf.shape[axis], None)
        made[path][tuple(place)] = leaf
    return made


def neutral(layout: Layout) -> dict[str, np.ndarray]:
    """A slot that does nothing."""
    return {path: _neutral(path, shape) for path, shape in layout.items()}


def _neutral(path: str, shape: tuple[int, ...]) -> np.ndarray:
    if path == "mask" or path.endswith("prefix/mask"):
        return np.zeros(shape, bool)
    return np.full(shape, float(path.rpartition("/")[2] in FACTORS), np.float32)


def _ends(path: str, end: str) -> bool:
    return path == end if "/" not in end else path.endswith(f"/{end}")


def _check(injection: Injection) -> None:
    """What rows of one batch cannot have each for itself.

    Raises:
      InputError: the injection has it.
    """
    leaves: dict[str, Any] = flax.traverse_util.flatten_dict(injection.sockets, sep="/")
    refused = {
        "weights of its own": injection.params is not None,
        "a head that reads virtual tokens": bool(injection.pool_prompt),
        "a prompt for each row": injection.prompt is not None and injection.prompt.ndim > 2,
        "states that replace those of the text": any(p.endswith("prompt/replace") for p in leaves),
        "virtual tokens before the target": "decoder/prompt" in leaves,
        "the norms of DoRA": any(p.endswith("lora/magnitude") for p in leaves),
    }
    found = [what for what, there in refused.items() if there]
    if found:
        raise InputError(
            f"the prompt has {' and '.join(found)}, which rows of a batch cannot have each for "
            "itself; answer with it alone"
        )
    numbers = [injection.prompt, injection.shift, injection.head, injection.sockets]
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(numbers)):
        raise InputError("the prompt holds NaN or inf; it is damaged or its training diverged")
