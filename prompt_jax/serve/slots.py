"""Which prompt stands in which slot of a bank."""

from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from prompt_jax.serve.bank import Bank

PLAIN = 0
"""The slot of rows without a prompt: it is neutral and never given away."""


class Version(NamedTuple):
    """A prompt that may be asked for, as it was when it was put under its name."""

    name: str
    digest: str
    """sha256 of its numbers; two names of one digest share a slot. Empty of no prompt."""
    leaves: Mapping[str, np.ndarray]
    """As `bank.flat` gives them, on the host."""
    labels: tuple[str, ...] = ()
    """The label words of a classification, one of which is every answer; empty of others."""

    @property
    def classes(self) -> int:
        """C of its head; 0 without one."""
        kernel = self.leaves.get("head/out/kernel")
        return 0 if kernel is None else kernel.shape[-1]


PLAIN_VERSION = Version("", "", {})


class Slots:
    """Puts prompts into the slots of a bank as they are needed; the longest unused gives way.

    Args:
      bank: its first slot stays neutral.
    """

    def __init__(self, bank: Bank):
        self.bank = bank
        self._of: OrderedDict[str, int] = OrderedDict()  # By digest, the longest unused first.
        self._free = list(range(bank.slots - 1, PLAIN, -1))
        self._held: Counter[str] = Counter()
        self.loaded = 0
        """Prompts put into a slot so far."""

    @property
    def held(self) -> Collection[str]:
        """Digests that keep their slots for now."""
        return self._held.keys()

    def room(self) -> int:
        """Prompts that can be had at once beside those that are held."""
        return self.bank.slots - 1 - len(self._held)

    def place(self, version: Version, keep: Collection[str] = ()) -> int:
        """The slot of a prompt, which is put there if it is not.

        Args:
          keep: digests that must not give way.

        Raises:
          LookupError: every slot is held or to be kept; callers see to it that this cannot be.
        """
        if not version.digest:
            return PLAIN
        slot = self._of.get(version.digest)
        if slot is None:
            slot = self._free.pop() if self._free else self._give_way(keep)
            self.bank.put(slot, version.leaves)
            self._of[version.digest] = slot
            self.loaded += 1
        self._of.move_to_end(version.digest)
        return slot

    def hold(self, version: Version) -> None:
        """Keeps a prompt in its slot until it is let go as often."""
        if version.digest:
            self._held[version.digest] += 1

    def let_go(self, version: Version) -> None:
        """The reverse of `hold`."""
        if version.digest:
            self._held[version.digest] -= 1
            self._held += Counter()  # Forgets those that nobody holds.

    def _give_way(self, keep: Collection[str]) -> int:
        for digest in self._of:
            if digest not in keep and digest not in self._held:
                return self._of.pop(digest)
        raise LookupError("no slot is free")
