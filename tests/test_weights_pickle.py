"""PyTorch's .bin files: tensors are read, everything else is refused and never run."""

import collections
import io
import os
import pickle
import struct
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from prompt_jax.config import InputError
from prompt_jax.methods.method import KEY
from prompt_jax.prompts.peft import read_weights
from prompt_jax.weights import load_backbone, save_hugging_face
from prompt_jax.weights.hugging_face import open_weights
from prompt_jax.weights.pickle import LEGACY_MAGIC, open_pickle


class Call:
    """Pickles as the call of a global."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments

    def __reduce__(self):
        return self.name, self.arguments


def state_dict(tree):
    """A pickle in which `("tensor", ...)` tuples are torch tensors, made without torch."""

    def encode(value):
        if isinstance(value, str):
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, tuple) and value and value[0] == "tensor":
            _, storage, key, offset, size, stride = value
            pid = encode(("storage", ("global", "torch", storage), key, "cpu", 4))
            arguments = b"(" + pid + b"Q" + b"".join(map(encode, (offset, size, stride))) + b"t"
            return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
        if isinstance(value, tuple) and value and value[0] == "global":
            return f"c{value[1]}\n{value[2]}\n".encode()
        if isinstance(value, tuple):
            return b"(" + b"".join(map(encode, value)) + b"t"
        return b"}(" + b"".join(encode(x) for pair in value.items() for x in pair) + b"u"

    return b"\x80\x02" + encode(tree) + b"."


def write(file, program, storages=None):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for key, values in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", np.asarray(values, np.float32).tobytes())
    return file


@pytest.fixture
def file(tmp_path):
    return tmp_path / "pytorch_model.bin"


def test_tensors_are_views_of_storages(file):
    program = state_dict(
        {
            "a": ("tensor", "FloatStorage", "0", 1, (2, 2), (2, 1)),
            "b": ("tensor", "FloatStorage", "0", 0, (2, 3), (1, 2)),
        }
    )
    tensors = open_pickle(write(file, program, {"0": range(6)}))
    np.testing.assert_array_equal(tensors["a"].read(), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(tensors["b"].read(), [[0, 2, 4], [1, 3, 5]])
    assert tensors["b"].shape == (2, 3)


@pytest.mark.parametrize(
    "tensor",
    [
        ("tensor", "FloatStorage", "0", 1, (2, 3), (3, 1)),
        ("tensor", "FloatStorage", "0", 0, (2, 3), (1000000, 1)),
        ("tensor", "FloatStorage", "0", 0, (2, 3), (-3, 1)),
        ("tensor", "FloatStorage", "0", -1, (1,), (1,)),
        ("tensor", "FloatStorage", "missing", 0, (1,), (1,)),
    ],
)
def test_no_view_reaches_outside_its_storage(file, tensor):
    tensors = open_pickle(write(file, state_dict({"a": tensor}), {"0": range(6)}))
    with pytest.raises(InputError, match=r"pytorch_model.bin is truncated or damaged: not "):
        tensors["a"].read()


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (lambda mark: pickle.dumps({"a": Call(os.system, f"touch {mark}")}), "posix.system"),
        (lambda mark: pickle.dumps({"a": Call(eval, f"open({mark!r}, 'w')")}), "builtins.eval"),
        (lambda _: pickle.dumps(Call(getattr, "", "join")), "builtins.getattr"),
        (lambda _: b"\x80\x02ctorch\nload\n.", "torch.load"),
        (lambda _: b"\x80\x02ctorch._utils\n_rebuild_qtensor\n.", "torch._utils._rebuild_qtensor"),
        (lambda _: b"\x80\x02ccollections\nCounter\n.", "collections.Counter"),
        (lambda _: b"\x80\x04\x8c\x05torch\x8c\x11FloatStorage.__or\x93.", "torch.FloatStorage._"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_does_anything_else_is_refused(file, program, name, zipped):
    mark = str(file.with_name("mark"))
    if zipped:
        write(file, program(mark))
    else:
        file.write_bytes(program(mark))
    with pytest.raises(InputError, match=rf"pytorch_model.bin: refused {name}.*tensors and noth"):
        open_pickle(file)
    assert not os.path.exists(mark)


def test_the_attack_works_on_an_unrestricted_reader(file):
    """Or else the test above could not fail."""
    mark = str(file.with_name("mark"))
    pickle.loads(pickle.dumps({"a": Call(os.system, f"touch {mark}")}))
    assert os.path.exists(mark)


def test_what_a_pickle_assigns_to_reaches_nothing(file):
    """BUILD sets attributes of whatever it is given; here of the only globals that it can get."""
    state = b"N}(X\x04\x00\x00\x00evilK\x01u\x86b"
    names = b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_parameter"
    for name in (*names, b"collections\nOrderedDict"):
        program = b"\x80\x02c" + name + b"\n" + state + b"."
        with pytest.raises(InputError, match="not a PyTorch state dict|expected a dict of tensors"):
            open_pickle(write(file, program))
    assert not hasattr(collections.OrderedDict, "evil")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"", "not a PyTorch state dict"),
        (b"\x80\x02", "not a PyTorch state dict"),
        (b"garbage", "not a PyTorch state dict"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "not a PyTorch state dict"),
        (b"\x80\x02(X\x01\x00\x00\x00aK\x01K\x01tQ.", "persistent id of an unknown kind 'a'"),
        (pickle.dumps([1], 2), "expected a dict of tensors, got a list"),
        (pickle.dumps({"a": 1}, 2), "expected a dict of tensors, 'a' is a int"),
        (pickle.dumps({1: 2}, 2), "expected a dict of tensors, 1 is a int"),
        (state_dict({"a": ("tensor", "LongStorage", "0", 0, (1,), (1,))}), "a is int64; allowed"),
    ],
)
def test_a_pickle_of_something_else(file, program, message):
    with pytest.raises(InputError, match=message):
        open_pickle(write(file, program))


def test_a_zip_without_a_state_dict(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "")
    with pytest.raises(InputError, match="not a PyTorch state dict"):
        open_pickle(file)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a PyTorch state dict"),
        (pickle.dumps(3, 2), "it does not begin as a PyTorch file"),
        (pickle.dumps(LEGACY_MAGIC, 2), "not a PyTorch state dict"),
    ],
)
def test_a_legacy_file_of_something_else(file, data, message):
    file.write_bytes(data)
    with pytest.raises(InputError, match=message):
        open_pickle(file)


def test_damaged_zip(file):
    program = state_dict({"a": ("tensor", "FloatStorage", "0", 0, (6,), (1,))})
    data = write(file, program, {"0": range(6)}).read_bytes()
    for size in (4, len(data) // 2, len(data) - 10):
        file.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"pytorch_model.bin is truncated or damaged"):
            open_pickle(file)
    # A zip has checksums: a flipped bit in the numbers is seen, even if they stay finite.
    flipped = bytearray(data)
    flipped[data.index(np.float32(5).tobytes())] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(InputError, match="Bad CRC-32"):
        open_pickle(file)["a"].read()


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_that_torch_saved(tiny, tmp_path, zipped):
    torch = pytest.importorskip("torch")
    folder = save_hugging_face(tmp_path, tiny)
    whole = load_backbone(folder).fingerprint
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state = collections.OrderedDict((n, torch.tensor(a)) for n, a in tensors.items())
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    state._metadata = {"": {"version": 1}}
    file = folder / "pytorch_model.bin"
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    backbone = load_backbone(folder, dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, backbone.params, tiny.params)
    assert backbone.fingerprint == whole
    data = file.read_bytes()
    for size in (10, len(data) // 2, len(data) - 10):
        file.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"pytorch_model.bin is truncated or damaged"):
            load_backbone(folder)


WRAPPED = {
    "parameters": lambda torch, state: {n: torch.nn.Parameter(t) for n, t in state.items()},
    "an ordered dict": lambda _, state: collections.OrderedDict(state),
    "a training checkpoint": lambda _, state: {"epoch": 3, "lr": 0.1, "state_dict": state},
    "DataParallel": lambda _, state: {f"module.{n}": t for n, t in state.items()},
    "DataParallel around torch.compile": lambda _, state: {
        "model_state_dict": {f"module._orig_mod.{n}": t for n, t in state.items()}
    },
}


@pytest.mark.parity
@pytest.mark.parametrize("how", WRAPPED)
def test_weights_of_a_bin_that_something_was_around(tmp_path, how):
    torch = pytest.importorskip("torch")
    state = {"shared.weight": torch.arange(6.0).reshape(2, 3), "other.bias": torch.zeros(3)}
    torch.save(WRAPPED[how](torch, state), tmp_path / "pytorch_model.bin")
    tensors = open_weights(tmp_path)
    assert tensors.keys() == state.keys()
    np.testing.assert_array_equal(tensors["shared.weight"].read(), [[0, 1, 2], [3, 4, 5]])
    torch.save(WRAPPED[how](torch, {KEY: state["shared.weight"]}), tmp_path / "adapter_model.bin")
    adapter = read_weights(tmp_path / "adapter_model.bin")
    np.testing.assert_array_equal(adapter[KEY], [[0, 1, 2], [3, 4, 5]])


def test_a_name_that_a_wrapper_shares_with_one_weight_stays(file):
    tensor = ("tensor", "FloatStorage", "0", 0, (6,), (1,))
    program = state_dict({"module.a": tensor, "b": tensor})
    assert open_weights(write(file, program, {"0": range(6)}).parent).keys() == {"module.a", "b"}


@pytest.mark.parity
def test_types_and_shards_that_torch_saved(tmp_path):
    torch = pytest.importorskip("torch")
    for name in ("float64", "float32", "float16", "bfloat16"):
        tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
        stream = io.BytesIO()
        torch.save({"a": tensor.T}, stream)
        (tmp_path / "m.bin").write_bytes(stream.getvalue())
        stored = open_pickle(tmp_path / "m.bin")["a"]
        assert stored.dtype.name == name
        np.testing.assert_array_equal(stored.read().astype(np.float32), [[0, 3], [1, 4], [2, 5]])
