"""The rules of a mesh, how one is chosen, and what is refused; eight_devices.py uses them."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from prompt_jax import sharding
from prompt_jax.backbones.layers import constrain
from prompt_jax.config import Config, InputError, MeshConfig, from_json, to_json
from prompt_jax.sharding import (
    activation_spec,
    build_mesh,
    check_mesh,
    check_rows,
    mesh_shape,
    parameter_spec,
    place_rows,
    replicate,
    whole_rows,
)
from prompt_jax.weights import load_backbone, progress
from prompt_jax.weights.pieces import Piece, read_blocks
from prompt_jax.weights.stored import StoredTensor


def grid(data, fsdp, tensor):
    """Sizes are all that the rules look at."""
    return AbstractMesh((data, fsdp, tensor), sharding.AXES)


@pytest.mark.parametrize(
    ("names", "shape", "mesh", "wanted"),
    [
        (("embed", "heads", "kv"), (16, 8, 4), (2, 2, 2), ["fsdp", "tensor", None]),
        (("layers", "mlp", "embed"), (3, 32, 16), (2, 2, 2), [None, "tensor", "fsdp"]),
        (("embed", "vocab"), (16, 64), (2, 2, 2), [None, ("tensor", "fsdp")]),
        # One that fits no rule goes along the width.
        (("vocab", "embed"), (61, 16), (1, 2, 4), [None, ("fsdp", "tensor")]),
        (("embed", "kv_heads", "kv"), (16, 2, 4), (1, 1, 8), ["tensor", None, None]),
        (("embed", "kv_heads", "kv"), (9, 2, 4), (1, 1, 8), [None, None, None]),
        (("layers", "embed"), (3, 16), (1, 8, 1), []),
        (("heads", "kv"), (8, 4), (1, 2, 4), ["tensor", None]),
        (("relative_buckets", "heads"), (32, 8), (8, 1, 1), [None, None]),
    ],
)
def test_where_a_leaf_is_split(names, shape, mesh, wanted):
    assert parameter_spec(names, shape, grid(*mesh)) == PartitionSpec(*wanted)


@pytest.mark.parametrize(
    ("names", "shape", "wanted"),
    [
        (("batch",), (8, 5, 3), [("data", "fsdp")]),
        (("batch",), (3, 5), [None]),
        (("batch",), (2, 5), ["data"]),
        (("rows", None, "vocab"), (8, 5, 61), ["data", None, ("tensor", "fsdp")]),
        ((None, "batch", "kv_heads"), (2, 8, 3, 7), [None, ("data", "fsdp"), None]),
    ],
)
def test_where_an_activation_is_split(names, shape, wanted):
    assert activation_spec(names, shape, grid(2, 2, 2)) == PartitionSpec(*wanted)


def device(i, memory=None, process=0, slice_index=0, platform="cpu"):
    stats = None if memory is None else {"bytes_limit": memory}
    return SimpleNamespace(
        id=i, process_index=process, slice_index=slice_index, memory_stats=lambda: stats,
        platform=platform, device_kind=platform,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "size", "heads", "wanted"),
    [
        ({}, 1, 8, (8, 1, 1)),
        ({"tensor": 2}, 1, 8, (4, 1, 2)),
        ({"data": 1, "tensor": 2}, 1, 8, (1, 1, 2)),
        ({"fsdp": "auto", "tensor": "auto"}, 100, 8, (8, 1, 1)),
        ({"fsdp": "auto", "tensor": "auto"}, 1500, 8, (2, 1, 4)),
        ({"fsdp": "auto", "tensor": "auto"}, 1500, 6, (2, 2, 2)),
        ({"fsdp": "auto"}, 1500, 8, (2, 4, 1)),
        ({"fsdp": 2, "tensor": "auto"}, 1500, 8, (2, 2, 2)),
        # What no number of devices holds is shared by all of them.
        ({"fsdp": "auto", "tensor": "auto"}, 10**6, 8, (1, 1, 8)),
    ],
)
def test_a_mesh_is_chosen_from_devices_and_model(config, size, heads, wanted):
    devices = [device(i, memory=1000) for i in range(8)]
    assert mesh_shape(MeshConfig(**config), devices, heads=heads, size=size) == wanted


def test_tensor_stays_on_one_host():
    devices = [device(i, 1000, process=i // 2) for i in range(8)]
    config = MeshConfig(fsdp="auto", tensor="auto")
    assert mesh_shape(config, devices, heads=8, size=1500) == (2, 2, 2)


def test_tensor_takes_the_gpus_of_a_host_with_a_process_each():
    devices = [device(i, 1000, process=i, slice_index=i // 4, platform="gpu") for i in range(8)]
    config = MeshConfig(tensor="auto")
    assert mesh_shape(config, devices, heads=8, size=1500) == (2, 1, 4)
    # Not further than a host, however large the model.
    assert mesh_shape(config, devices, heads=8, size=10**6) == (2, 1, 4)


def test_a_device_that_does_not_tell_its_memory():
    devices = [device(i) for i in range(4)]
    size = int(sharding.ROOM * sharding.ASSUMED_MEMORY) + 1
    assert mesh_shape(MeshConfig(tensor="auto"), devices, heads=4, size=size) == (2, 1, 2)


@pytest.mark.parametrize(
    ("config", "heads", "message"),
    [
        ({"fsdp": 3}, 6, r"fsdp 3 x tensor 1 does not divide 8 devices; .*: mesh.fsdp 2 or 4$"),
        ({"data": 2, "tensor": 8}, 8, "data 2 x fsdp 1 x tensor 8 .* mesh.tensor 4"),
        ({"data": 3, "fsdp": 3}, 8, "set two of the sizes to 1"),
        ({"tensor": 4}, 6, "mesh.tensor 4 does not divide the model's 6 heads.* 8 devices: 2;"),
    ],
)
def test_meshes_that_do_not_divide(config, heads, message):
    devices = [device(i) for i in range(8)]
    with pytest.raises(InputError, match=message):
        build_mesh(MeshConfig(**config), heads=heads, size=1, devices=devices)


def test_no_process_is_left_without_work():
    devices = [device(i, process=i // 4) for i in range(8)]
    message = 'a mesh of 4 devices leaves some of 2 processes without work; use all 8, with "auto"'
    with pytest.raises(InputError, match=message):
        build_mesh(MeshConfig(data=4), heads=8, size=1, devices=devices)


def test_slices_meet_along_data():
    devices = [device(i, slice_index=i // 4) for i in range(8)]
    found = sharding._grid((2, 2, 2), devices)
    slices = np.vectorize(lambda d: d.slice_index)(found)
    assert found.shape == (2, 2, 2)
    np.testing.assert_array_equal(slices[0], 0)
    np.testing.assert_array_equal(slices[1], 1)
    with pytest.raises(InputError, match="mesh.data 1 does not divide over 2 slices.* multiple of"):
        sharding._grid((1, 4, 2), devices)


@pytest.mark.parametrize("size", [0, "all", 1.5])
def test_sizes_that_are_none(size):
    with pytest.raises(InputError, match='mesh.fsdp must be at least 1, or "auto", got'):
        MeshConfig(fsdp=size)


def test_rows_that_do_not_divide():
    check_rows(8, grid(2, 2, 2))
    with pytest.raises(InputError, match="6 rows of a step do not divide over the 4 .* 4 or 8 row"):
        check_rows(6, grid(2, 2, 2))
    assert whole_rows(5, grid(2, 2, 2)) == 8 and whole_rows(5, None) == 5


def test_one_device_needs_no_mesh(tiny):
    assert build_mesh(MeshConfig(), heads=3, size=1) is None
    x = jnp.ones((2, 3))
    for same in (constrain(x, None, "batch"), place_rows(x, None), replicate(x, None)):
        assert same is x
    assert load_backbone("embedded", mesh=MeshConfig()).mesh is None


def test_meshes_of_other_axes_are_refused():
    one = np.array(jax.devices()[:1])
    with pytest.raises(InputError, match="axes x of types Auto; allowed: data, fsdp, tensor"):
        check_mesh(Mesh(one, ("x",)), 4)
    explicit = Mesh(one.reshape(1, 1, 1), sharding.AXES, axis_types=(AxisType.Explicit,) * 3)
    with pytest.raises(InputError, match="Explicit, Explicit; allowed"):
        load_backbone("embedded", mesh=explicit)


def test_a_config_with_a_mesh_is_json_and_back():
    config = dataclasses.replace(Config(), mesh=MeshConfig(fsdp="auto", tensor=2))
    assert from_json(Config, to_json(config)) == config


def test_a_process_reads_the_rows_that_its_devices_need():
    stored = np.arange(40, dtype=np.float32).reshape(10, 4)
    read = []

    def read_rows(first, last):
        read.append((first, last))
        return stored[first:last]

    tensor = StoredTensor(stored.shape, stored.dtype, lambda: stored, read_rows)
    piece = Piece(stored, stored[None], np.arange(3, 6), slice(0, 4))
    ((first, block),) = read_blocks(tensor, [piece], every_row=False)
    assert first == 3 and read == [(3, 6)]
    np.testing.assert_array_equal(block, stored[3:6])
    assert [len(b) for _, b in read_blocks(tensor, [piece], every_row=True)] == [10]


def test_reading_tells_how_far_it_is(monkeypatch):
    said = []
    tell = progress.reading(10**9, said.append)
    tell(5 * 10**8)
    assert not said
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    tell(4 * 10**8)
    tell(10**8)
    assert said[0].startswith("read 0.9 of 1.0 GB, ") and said[1].startswith("read 1.0 of 1.0 GB")
