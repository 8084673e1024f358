"""Prompts of any method and length on the device, a slot each; a batch gathers a slot a row.

Putting a prompt into a slot changes numbers and no shape: nothing is compiled.
"""

import functools
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from prompt_jax.forward import Injection
from prompt_jax.serve.prompts import Served
from prompt_jax.serve.slots import Layout, Leaves, fitted, neutral

PLAIN_SLOT = 0
"""The slot of rows without a prompt: it is neutral and never given away."""
BEFORE_THE_TEXT = ("prompt", "mask", "place", "shift", "head/")
"""Starts of the paths that stay out of the layers."""
DeviceLeaves: TypeAlias = Mapping[str, Array]
"""Path of a leaf -> the numbers of all slots, [N, ...], on the device."""


class Bank:
    """N slots of one layout; the longest unused prompt gives way to a new one."""

    def __init__(self, layout: Layout, slots: int):
        self.layout, self.slots = dict(layout), slots
        self.prompts = slots - 1
        """Prompts that can be had at once."""
        # Copied: a broadcast view has stride 0, and a donated array must own its memory.
        self.leaves: dict[str, Array] = {
            path: jnp.asarray(np.broadcast_to(leaf, (slots, *leaf.shape)).copy())
            for path, leaf in neutral(layout).items()
        }
        # Noted here, since another thread reads them while `put` gives the arrays away.
        self._shapes = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in self.leaves.items()
        }
        # Two parts and not one a method: every part is another compilation of every program.
        before = frozenset(path for path in layout if path.startswith(BEFORE_THE_TEXT))
        self.parts: tuple[frozenset[str], ...] = tuple(dict.fromkeys((before, frozenset(layout))))
        """Paths that programs are compiled for, the cheapest part first: a batch whose prompts only
        stand before the text does not pay for what others do in the layers."""
        self.held: Counter[str] = Counter()
        """Contents that keep their slots for now, and for how many rows."""
        self.loaded = 0
        """Prompts put into a slot so far."""
        # By content, the longest unused first.
        self._slot_of: OrderedDict[str, int] = OrderedDict()
        # Downwards, because `pop` takes the last one: slots fill from 1 on.
        self._free = list(range(slots - 1, PLAIN_SLOT, -1))

    def put(self, slot: int, leaves: Leaves) -> None:
        """Takes a prompt into a slot, in place of what was there."""
        # The slot is traced and not static, so one program fills every slot.
        self.leaves = _put(self.leaves, np.int32(slot), fitted(leaves, self.layout))

    def clear(self, slot: int) -> None:
        """Makes a slot neutral: its rows have the plain model."""
        self.leaves = _put(self.leaves, np.int32(slot), neutral(self.layout))

    @property
    def bytes(self) -> int:
        """What all slots take on the device."""
        return sum(leaf.nbytes for leaf in self.leaves.values())

    def place(self, served: Served, keep: Collection[str] = ()) -> int:
        """The slot of a prompt, which is put there if it is not.

        Args:
          keep: contents that must not give way.

        Raises:
          LookupError: every slot is held or to be kept; callers see to it that this cannot be.
        """
        if not served.content:
            return PLAIN_SLOT
        slot = self._slot_of.get(served.content)
        if slot is None:
            slot = self._free.pop() if self._free else self._give_way(keep)
            self.put(slot, served.leaves)
            self._slot_of[served.content] = slot
            self.loaded += 1
        # In use now, so it is the last one to give way.
        self._slot_of.move_to_end(served.content)
        return slot

    def _give_way(self, keep: Collection[str]) -> int:
        for content in self._slot_of:
            if content not in keep and content not in self.held:
                return self._slot_of.pop(content)
        raise LookupError("no slot is free")

    def hold(self, served: Served) -> None:
        """Keeps a prompt in its slot until it is released as often."""
        if served.content:
            self.held[served.content] += 1

    def release(self, served: Served) -> None:
        """Takes back one `hold`."""
        if served.content:
            self.held[served.content] -= 1
            self.held += Counter()  # Drops those whose count is zero.

    def part_of(self, paths: Iterable[str]) -> frozenset[str]:
        """The first part that has all of these paths."""
        needed = set(paths)
        # The last part has all paths, so one is always found.
        return next(part for part in self.parts if needed <= part)

    def leaves_with(self, paths: Iterable[str]) -> DeviceLeaves:
        """The leaves of the first part that has all of these paths."""
        part = self.part_of(paths)
        return {path: leaf for path, leaf in self.leaves.items() if path in part}

    def shapes(self, part: frozenset[str]) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a part's leaves, for compiling."""
        return {path: self._shapes[path] for path in self._shapes if path in part}


# Donated: the bank of all slots is the largest array beside the model and must not stand twice.
@functools.partial(jax.jit, donate_argnums=0)
def _put(leaves: dict[str, Array], slot: Int[Array, ""], new: DeviceLeaves) -> dict[str, Array]:
    return {path: leaf.at[slot].set(new[path]) for path, leaf in leaves.items()}


def rows_of(leaves: DeviceLeaves, slots: Int[Array | np.ndarray, " B"]) -> Injection:
    """What every row of a batch puts into the model, by the slots of the rows."""
    rows = {path: leaf[slots] for path, leaf in leaves.items()}
    # A scan over layers slices its inputs in front, so L goes there and the rows behind it.
    return injection_of(
        {path: leaf.swapaxes(0, 1) if "/layers/" in path else leaf for path, leaf in rows.items()}
    )


def injection_of(leaves: DeviceLeaves) -> Injection:
    """The leaves of one slot, or those of the rows of a batch, as they go into the model."""
    trees = flax.traverse_util.unflatten_dict(dict(leaves), sep="/")
    return Injection(
        prompt=leaves.get("prompt"),
        prompt_mask=leaves.get("mask"),
        shift=leaves.get("shift"),
        sockets=trees.get("sockets", {}),
        head=trees.get("head"),
        places=leaves.get("place"),
    )
