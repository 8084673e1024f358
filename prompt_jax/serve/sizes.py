"""How much an engine holds at once."""

import dataclasses

from prompt_jax.config import InputError, at_least


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much an engine holds at once, see `Engine`."""

    slots: int
    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    max_new_tokens: int
    places: int
    window: float
    queue: int
    burst: int

    def __post_init__(self) -> None:
        for name in ("rows", "lengths"):
            sizes = getattr(self, name)
            if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
                raise InputError(f"{name} are sizes from 1 on that grow, got {list(sizes)}")
        at_least("slots", self.slots, 2, "one for what is read while others are written with")
        for name in ("max_new_tokens", "places", "queue", "burst"):
            at_least(name, getattr(self, name), 1)
        at_least("window", self.window, 0.0)
