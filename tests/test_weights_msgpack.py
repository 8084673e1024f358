"""Flax's msgpack files: the same model as safetensors, and nothing damaged gets through."""

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from prompt_jax.config import InputError
from prompt_jax.weights import load_backbone, save_hugging_face


@pytest.fixture
def folder(tiny, tmp_path):
    return save_hugging_face(tmp_path / "model", tiny)


def assert_same_params(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def to_flax(tensors):
    """Hugging Face Flax's tree: kernels are [in, out], paths have dots for slashes."""
    tree = {}
    for name, values in tensors.items():
        stem = name.removesuffix(".weight")
        if "norm" in name:
            tree[name] = values
        elif name == "shared.weight" or "relative" in name:
            tree[f"{stem}.embedding"] = values
        else:
            tree[f"{stem}.kernel"] = values.T
    return flax.traverse_util.unflatten_dict(tree, sep=".")


def test_flax_msgpack_is_the_same_model(tiny, folder, monkeypatch):
    whole = load_backbone(folder, dtype="float32").fingerprint
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    # A small limit makes Flax write its large arrays in chunks, as it does above 1 GiB.
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 1000)
    file = folder / "flax_model.msgpack"
    file.write_bytes(flax.serialization.msgpack_serialize(to_flax(tensors)))
    assert b"__msgpack_chunked_array__" in file.read_bytes()
    backbone = load_backbone(folder, dtype="float32")
    assert_same_params(backbone.params, tiny.params)
    assert backbone.fingerprint == whole


def test_flax_shards(tiny, folder, shard):
    tensors = flax.traverse_util.flatten_dict(
        to_flax(load_file(folder / "model.safetensors")), sep="/"
    )
    (folder / "model.safetensors").unlink()

    def save(part, file):
        tree = flax.traverse_util.unflatten_dict(part, sep="/")
        file.write_bytes(flax.serialization.msgpack_serialize(tree))

    shard(folder, tensors, "flax_model.msgpack", save)
    assert_same_params(load_backbone(folder, dtype="float32").params, tiny.params)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_msgpack(folder, keep):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    data = flax.serialization.msgpack_serialize(to_flax(tensors))
    (folder / "flax_model.msgpack").write_bytes(data[:keep])
    with pytest.raises(InputError, match=r"flax_model.msgpack is truncated or damaged: not a Flax"):
        load_backbone(folder)


def chunked(shape, chunks):
    return {"a": {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks}}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": 3}, "not a Flax tree"),
        ([1, 2.5, None, -200, b"abc", "word", True], "not a Flax tree"),
        ({"a": np.arange(3)}, "a is int64; allowed"),
        (chunked({"0": 3}, {"0": np.zeros(2)}), r"the chunks of a do not make \[3\]"),
        (chunked({"1": 3}, {"0": np.zeros(2)}), "not a Flax tree"),
    ],
)
def test_a_msgpack_of_something_else(folder, tree, message):
    (folder / "model.safetensors").unlink()
    packed = flax.serialization.msgpack_serialize(tree)
    (folder / "flax_model.msgpack").write_bytes(packed)
    with pytest.raises(InputError, match=message):
        load_backbone(folder)


@pytest.mark.parametrize("data", [b"\xc1", b"\x80\x00", b"\x81\xc0\xd4\x05\x00"])
def test_bytes_that_are_no_tree(folder, data):
    (folder / "model.safetensors").unlink()
    (folder / "flax_model.msgpack").write_bytes(data)
    with pytest.raises(InputError, match="not a Flax tree"):
        load_backbone(folder)
