"""The parts of an engine that end together, and what they have done."""

from typing import Any, NamedTuple

from prompt_jax.serve.queue import Queue
from prompt_jax.serve.reader import Reader
from prompt_jax.serve.slots import Slots
from prompt_jax.serve.worker import Worker
from prompt_jax.serve.writer import Writer


class Stats(NamedTuple):
    """What an engine has done so far."""

    rows: int
    """Rows read."""
    batches: int
    """Programs that read them."""
    mixed: int
    """Batches of more than one prompt."""
    loaded: int
    """Prompts put into slots."""
    shapes: int
    """Programs asked for, each compiled once."""
    waiting: int
    writing: int
    """Rows whose answers are being written."""
    prompts: int


class Running(NamedTuple):
    """What an engine has until it comes to an end."""

    slots: Slots
    reader: Reader
    writer: Writer | None
    queue: Queue
    worker: Worker

    def stats(self, shapes: set[Any], prompts: int) -> Stats:
        """Counters since it began, of one moment.

        Args:
          shapes: programs asked for.
          prompts: how many there are.
        """
        with self.worker.lock:
            return Stats(
                rows=self.reader.rows,
                batches=self.reader.batches,
                mixed=self.reader.mixed,
                loaded=self.slots.loaded,
                shapes=len(shapes),
                waiting=len(self.queue),
                writing=0 if self.writer is None else len(self.writer.rows),
                prompts=prompts,
            )
