"""What is written is whole or not there, a full disk is one line, and a lock is one process's."""

import contextlib
import errno
import re
import resource
from pathlib import Path

import numpy as np
import pytest

from prompt_jax import checkpoints, disk, report
from prompt_jax.config import InputError
from prompt_jax.disk import DiskFullError
from prompt_jax.runs import LOCK, Metrics, hold

PACKAGE = Path(__file__).parent.parent / "prompt_jax"


@contextlib.contextmanager
def full_disk(size=0):
    """No file grows beyond `size`: what the system then says is what a full disk makes it say."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def picture(path):
    report.draw_methods(path, [("lora", 10, 0.5)], "accuracy", {"plain": 0.4})


def hugging_face_weights(path):
    from safetensors.numpy import save_file

    with disk.replacing(path) as fresh:
        save_file({"weight": np.zeros(1000)}, fresh)


@pytest.mark.parametrize(
    "write", [lambda path: disk.write(path, "new"), picture, hugging_face_weights]
)
def test_a_full_disk_leaves_the_old_file(write, tmp_path):
    path = tmp_path / "file.png"
    disk.write(path, b"old")
    with full_disk(), pytest.raises(DiskFullError, match="cannot write .*; free some space and"):
        write(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.read_bytes() != b"old" and list(tmp_path.iterdir()) == [path]


def test_metrics_that_did_not_fit_are_cut_off(tmp_path):
    with pytest.raises(DiskFullError, match=r"cannot write .*metrics\.jsonl: File too large"):
        with Metrics(tmp_path) as metrics, full_disk(100):
            for step in range(10):
                metrics.add({"step": step, "loss": 0.1234567890123456})
    with Metrics(tmp_path, step=9) as metrics:
        assert [row["step"] for row in metrics.rows] == [0, 1, 2]


def test_a_checkpoint_that_did_not_fit_leaves_the_one_before(tmp_path, caplog):
    state = {"prompt": np.arange(20.0)}
    with checkpoints.writing(tmp_path) as manager:
        checkpoints.save(manager, 1, state)
        manager.wait_until_finished()
    with pytest.raises(DiskFullError, match="cannot write .*; free some space"):
        with full_disk(10), checkpoints.writing(tmp_path) as manager:
            checkpoints.save(manager, 2, state)
    assert not [record for record in caplog.records if record.exc_info]
    with checkpoints.writing(tmp_path) as manager:
        kept = checkpoints.restore(manager, state)
    assert kept is not None and kept[0] == 1
    np.testing.assert_array_equal(kept[1]["prompt"], state["prompt"])


def test_another_reason_has_another_remedy(tmp_path):
    with pytest.raises(InputError, match="cannot write .*: No such file or directory; choose"):
        disk.write(tmp_path / "absent" / "file", "")
    with pytest.raises(InputError, match="Input/output error; give a drink"):
        with disk.writing(tmp_path, "give a drink"):
            raise OSError(errno.EIO, "Input/output error")


def test_a_folder_is_held_once_and_left_as_it_was(tmp_path):
    with hold(tmp_path):
        with pytest.raises(InputError, match="is in use by another process; wait for its end"):
            with hold(tmp_path):
                pass
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())
    (tmp_path / LOCK).touch()  # As a process leaves it that was killed.
    with hold(tmp_path):
        pass


def test_nothing_else_puts_a_file_in_its_place():
    """A file that a user keeps is written by this module; what stands below writes elsewhere."""
    ways = re.compile(r"os\.replace\(|\.write_text\(|\.write_bytes\(|savefig\((?!fresh)")
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if ways.search(path.read_text(encoding="utf-8"))
    }
    assert found == {
        "disk.py",
        "prompts/folder.py",  # Files of a folder that then appears as a whole.
        "data/cache.py",  # A folder of arrays that then appears as a whole.
        "serve/http/prompts.py",  # A temporary folder.
        "assets/embedded_tasks.py",  # Makes the data of the package.
    }
