"""How far reading a large checkpoint is, and how fast."""

import time
from collections.abc import Callable

SECONDS = 5.0
"""Between two lines; a checkpoint that is read sooner has none."""


def reading(total: int, say: Callable[[str], None]) -> Callable[[int], None]:
    """A function to call with the bytes of every block that was read, of `total`."""
    begun = last_line = time.monotonic()
    done = 0

    def progress(size: int) -> None:
        nonlocal done, last_line
        done += size
        now = time.monotonic()
        finished = done >= total and last_line > begun
        if now - last_line >= SECONDS or finished:
            last_line = now
            rate = done / max(now - begun, 1e-9)
            say(f"read {done / 1e9:.1f} of {total / 1e9:.1f} GB, {rate / 1e9:.2f} GB/s")

    return progress
