"""SIGTERM and Ctrl-C: a run saves the step that is under way; Ctrl-C once more ends it at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax


@contextlib.contextmanager
def stopping(action: Callable[[], None]) -> Iterator[None]:
    """Calls `action` at SIGTERM and Ctrl-C; a second Ctrl-C does what it did before.

    Only the main thread may set handlers; in another one nothing changes. Of several processes JAX
    has its own handler of SIGTERM (see `processes.preempted`), which then gets Ctrl-C too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    several = jax.process_count() > 1
    # A program in the background of a shell ignores Ctrl-C, which is meant for that in front.
    numbers = [signal.SIGINT] if signal.getsignal(signal.SIGINT) != signal.SIG_IGN else []
    numbers += [] if several else [signal.SIGTERM]

    def stop(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
            # Not by print, which the signal may have interrupted.
            os.write(2, b"\nstopping after this step; Ctrl-C once more ends at once\n")
        if several:
            signal.raise_signal(signal.SIGTERM)
        else:
            action()

    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
