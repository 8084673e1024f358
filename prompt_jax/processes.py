"""Several processes that run one program, as on the hosts of a TPU pod.

All of them do the same, on the same data, and each puts on its own devices what these hold (see
`sharding`). The first one alone has the run folder: what it reads from there it tells the others,
so they share no disk. What must not differ is compared before the first step, and a mistake that
one of them finds is one of all, since a process that went on alone would wait forever.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from prompt_jax.config import DistributedConfig, InputError
from prompt_jax.trees import Tree

T = TypeVar("T")
PIECE = 1 << 24
"""Bytes of every process that are gathered at once."""
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def join(config: DistributedConfig) -> None:
    """Makes this one of several processes, if there are others; before anything else uses JAX."""
    address = config.coordinator_address
    if not (address or config.detect):
        return
    try:
        jax.distributed.initialize(
            address or None,
            config.num_processes,
            config.process_id,
            # An address that was given is enough; what a cluster says could only contradict it.
            cluster_detection_method="deactivate" if address else None,
        )
    except ValueError:  # So JAX says that it found nobody.
        if address:
            raise
    except RuntimeError as error:
        if not address and "must be called before" in str(error):
            return  # JAX is in use, by one that has joined others or is alone.
        raise InputError(
            f"this process cannot join the others{address and f' at {address}'}: {error}; start "
            "all of them with the same distributed.coordinator_address, a free port on the host "
            "of process 0, or set distributed.detect to False for one alone"
        ) from error


def is_first() -> bool:
    """Whether this process speaks to the user and owns the run folder."""
    return jax.process_index() == 0


def from_first(tree: Tree) -> Tree:
    """The first process's tree in all of them: numpy arrays, of the same shapes everywhere."""
    if jax.process_count() == 1:
        return tree
    # One process alone, which is the usual run, never needs this module.
    from jax.experimental import multihost_utils

    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def from_all(text: str) -> list[str]:
    """The text of every process, in all of them."""
    return [content.decode() for content in _bytes_of_all(text.encode())]


def in_all(fact: bool) -> bool:
    """Whether a fact holds in every process."""
    return all(from_all("true" if fact else ""))


def arrays_of_all(arrays: Mapping[str, np.ndarray]) -> list[Mapping[str, np.ndarray]]:
    """The arrays of every process, in all of them, of any shape in each."""
    if jax.process_count() == 1:
        return [arrays]
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    files = [np.load(io.BytesIO(content)) for content in _bytes_of_all(file.getvalue())]
    return [dict(file) for file in files]


def part_of(count: int) -> tuple[int, int]:
    """The first of `count` items that this process has to do with, and the one behind its last."""
    index, processes = jax.process_index(), jax.process_count()
    return count * index // processes, count * (index + 1) // processes


def _bytes_of_all(content: bytes) -> list[bytes]:
    if jax.process_count() == 1:
        return [content]
    from jax.experimental import multihost_utils

    # Only arrays of one shape everywhere are gathered, so all are as long as the longest.
    mine = np.frombuffer(content, np.uint8)
    lengths = np.ravel(multihost_utils.process_allgather(np.int32(len(mine))))
    padded = np.pad(mine, (0, int(lengths.max()) - len(mine)))
    # Piece by piece, since every device has a copy of all that is gathered at once.
    pieces = [
        np.reshape(
            multihost_utils.process_allgather(padded[start : start + PIECE]), (len(lengths), -1)
        )
        for start in range(0, max(len(padded), 1), PIECE)
    ]
    rows = np.concatenate(pieces, axis=1)
    return [row[:n].tobytes() for row, n in zip(rows, lengths, strict=True)]


def together(work: Callable[[], T]) -> T:
    """What `work` gives here, unless any process finds its input wrong."""
    if jax.process_count() == 1:
        return work()
    results, mistake = [], ""
    try:
        # All processes must reach `from_all`, so a mistake waits until each of them has spoken.
        results.append(work())
    except InputError as error:
        mistake = str(error)
    for index, text in enumerate(from_all(mistake)):
        if text:
            raise InputError(f"process {index}: {text}")
    (result,) = results
    return result


def check_alike(facts: Mapping[str, object]) -> None:
    """Checks that all processes have the same.

    Args:
      facts: name -> plain value; a mapping within is compared name by name.
    """
    first, *others = (json.loads(text) for text in from_all(json.dumps(_flat(facts))))
    for index, process in enumerate(others, start=1):
        for name in {**first, **process}:
            value, expected = process.get(name, "nothing"), first.get(name, "nothing")
            if value != expected:
                raise InputError(
                    f"{name} is {value} in process {index} and {expected} in process 0; start all "
                    "processes with the same command, code, libraries and data"
                )


def _flat(facts: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


@functools.cache
def code_digest() -> str:
    """A digest of the code of this package."""
    digest = hashlib.sha256()
    # Sorted, since file systems list a folder in any order and the digest depends on it.
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def code() -> dict[str, str]:
    """Versions of everything that decides what a step computes, and a digest of this package."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "the code of prompt_jax": code_digest()[:16],
        "the version of python": platform.python_version(),
        **{f"the version of {name}": version for name, version in versions.items()},
    }


@contextlib.contextmanager
def elsewhere() -> Iterator[Path | None]:
    """A folder for what only the first process keeps; None in that one, which has the run's."""
    if is_first():
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def preempted(step: int) -> bool:
    """Whether all processes end before this step, since one of them got SIGTERM.

    All have to ask once before every step: JAX agrees on one that none of them has passed yet.
    """
    if jax.process_count() == 1:
        return False
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
