"""Training state on disk: tuned tree, optimizer state, step; never the backbone.

The only file that knows Orbax. A checkpoint carries the sha256 of its own numbers, so that a
damaged one is named instead of resumed.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import jax
import numpy as np

from prompt_jax import disk
from prompt_jax.config import InputError
from prompt_jax.sharding import on_host
from prompt_jax.trees import Tree

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager as Manager
else:  # Orbax takes a second to import, and most commands write no checkpoint.
    Manager: TypeAlias = object


@contextlib.contextmanager
def writing(folder: Path, *, keep: int = 2) -> Iterator[Manager]:
    """`open_checkpoints`, which are all written when this ends.

    Raises:
      DiskFullError, InputError: the last one could not be written; those before it stay.
    """
    manager = open_checkpoints(folder, keep=keep)
    try:
        yield manager
    finally:
        # The last save runs in a thread of Orbax, and its error appears only when it is waited for.
        with disk.writing(folder):
            manager.close()


def open_checkpoints(folder: Path, *, keep: int = 2) -> Manager:
    """An Orbax manager that writes asynchronously and keeps the latest `keep` steps.

    Of several processes one has it, and waits for no other.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import preservation_policy

    # Orbax logs with a traceback what it raises as well.
    logging.getLogger("absl").addFilter(_is_no_error_of_orbax)
    with disk.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    several = jax.process_count() > 1
    options = ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.LatestN(keep),
        create=not several,  # Orbax makes no folder for a part of all processes.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            active_processes={jax.process_index()} if several else None
        ),
    )
    # Orbax saves to absolute paths only.
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(manager: Manager, step: int, state: Tree) -> None:
    """Writes `state` in the background; a checkpoint appears whole or not at all.

    Raises:
      DiskFullError, InputError: this one, or the one before, cannot be written.
    """
    import orbax.checkpoint as ocp

    # A copy: the next step donates these buffers, and frees them while the write is under way.
    state = on_host(state)
    with disk.writing(Path(manager.directory)):
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_by_path(state)),
                digest=ocp.args.JsonSave({"sha256": _digest(state)}),
            ),
        )


def restore(manager: Manager, like: Tree) -> tuple[int, Tree] | None:
    """The newest step and its state, with the structure of `like`; None when nothing was saved.

    Raises:
      InputError: the checkpoint cannot be read or is of another kind of run, or its numbers are not
        those that were written.
    """
    import orbax.checkpoint as ocp

    step = manager.latest_step()
    if step is None:
        return None
    folder = Path(manager.directory) / str(step)
    remedy = f"delete {folder} to resume from an earlier step, or start again with --overwrite"
    # Targets of numpy make Orbax restore numpy, whatever devices the state was on.
    targets = jax.tree.map(np.asarray, _by_path(like))
    try:
        kept = ocp.StandardCheckpointHandler().metadata(manager.directory / str(step) / "state")
        others = sorted(kept.keys() ^ targets.keys())
        args = {"state": ocp.args.StandardRestore(targets), "digest": ocp.args.JsonRestore()}
        loaded = {} if others else manager.restore(step, args=ocp.args.Composite(**args))
    except Exception as error:  # Orbax raises its readers' own errors, of many unrelated types.
        raise InputError(
            f"checkpoint {folder} cannot be read ({type(error).__name__}: {_first_line(error)}); "
            f"{remedy}"
        ) from error
    if others:
        raise InputError(
            f"checkpoint {folder} belongs to another kind of run: one of the two has no "
            f"{others[0]}. Resume it with the command and the method that began it, or give "
            "another --out"
        )
    for name, target in targets.items():
        shape = np.shape(loaded["state"][name])
        if shape != target.shape:
            raise InputError(
                f"checkpoint {folder} holds {name} of shape {list(shape)}, and this run needs "
                f"{list(target.shape)}; {remedy}"
            )
    # In the order of the tree: mapping over a dict sorted the targets.
    leaves = [loaded["state"][name] for name in _by_path(like)]
    state = jax.tree.unflatten(jax.tree.structure(like), leaves)
    if loaded["digest"]["sha256"] != _digest(state):
        raise InputError(f"checkpoint {folder} is damaged: its sha256 does not match; {remedy}")
    return step, state


def _is_no_error_of_orbax(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _by_path(tree: Tree) -> dict[str, Tree]:
    """A flat dict: it outlives changes in the classes of optimizer states."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _digest(tree: Tree) -> str:
    digest = hashlib.sha256()
    for name, leaf in sorted(_by_path(tree).items()):
        leaf = np.asarray(leaf)
        # The same bytes are other numbers in another dtype or shape.
        digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
