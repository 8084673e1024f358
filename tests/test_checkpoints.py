import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.checkpoints import open_checkpoints, restore, save
from prompt_jax.config import InputError, TrainConfig
from prompt_jax.train import start

STATE = start({"prompt": jnp.arange(6.0).reshape(2, 3)}, TrainConfig())


def saved(folder, *steps):
    manager = open_checkpoints(folder)
    for step in steps:
        save(manager, step, STATE._replace(step=jnp.int32(step)))
    manager.wait_until_finished()
    return manager


def test_round_trip_is_exact(tmp_path):
    step, state = restore(saved(tmp_path, 3), STATE)
    assert step == 3
    expected = STATE._replace(step=jnp.int32(3))
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_nothing_saved_is_none(tmp_path):
    assert restore(open_checkpoints(tmp_path), STATE) is None


def test_the_latest_two_are_kept(tmp_path):
    assert sorted(saved(tmp_path, 1, 2, 3, 4).all_steps()) == [3, 4]


def test_another_shape_is_refused(tmp_path):
    other = start({"prompt": jnp.zeros((5, 3))}, TrainConfig())
    with pytest.raises(InputError, match=r"checkpoint .*/1 .*--overwrite"):
        restore(saved(tmp_path, 1), other)


def test_a_checkpoint_of_another_kind_of_run_is_not_called_damaged(tmp_path):
    manager = saved(tmp_path, 1)
    for other in ({"states": STATE}, start({"prompt": jnp.zeros((2, 3)), "b": 0}, TrainConfig())):
        with pytest.raises(
            InputError, match=r"/1 belongs to another kind of run: .* began it"
        ) as e:
            restore(manager, other)
        assert "delete" not in str(e.value)


def payload(folder):
    """The largest files of the checkpoint: where the numbers are."""
    files = [path for path in (folder / "1" / "state").rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def test_truncated_and_flipped_checkpoints_are_named(tmp_path):
    saved(tmp_path, 1).close()
    for path in payload(tmp_path)[:6]:
        whole = path.read_bytes()
        if len(whole) < 2:
            continue
        for damaged in (whole[: len(whole) // 2], flipped(whole)):
            path.write_bytes(damaged)
            manager = open_checkpoints(tmp_path)
            try:
                found = restore(manager, STATE)
                jax.tree.map(np.testing.assert_array_equal, found[1][1:], STATE[1:])
            except InputError as error:
                assert str(tmp_path / "1") in str(error) and "delete" in str(error)
            finally:
                manager.close()
        path.write_bytes(whole)


def test_other_numbers_than_were_written_are_refused(tmp_path):
    manager = saved(tmp_path, 1)
    manager.close()
    path = next((tmp_path / "1").rglob("digest/metadata"))
    path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(InputError, match="is damaged: its sha256 does not match; delete"):
        restore(open_checkpoints(tmp_path), STATE)


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
