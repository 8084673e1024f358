"""Hugging Face's folders: what is saved is what is read, and nothing damaged gets through."""

import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prompt_jax.backbones import PRESETS
from prompt_jax.backbones.t5 import hugging_face_names
from prompt_jax.config import InputError
from prompt_jax.weights import load_backbone, save_hugging_face
from prompt_jax.weights.hugging_face import open_weights
from prompt_jax.weights.mapping import shapes

BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.fixture
def folder(tiny, tmp_path):
    return save_hugging_face(tmp_path / "model", tiny)


def rewrite(folder, change):
    """Loads the weights of a folder, lets `change` edit them, and saves them again."""
    tensors = load_file(folder / "model.safetensors")
    tensors = change(tensors) or tensors
    save_file(tensors, folder / "model.safetensors")


def flip(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 1 << 4
    file.write_bytes(data)


def assert_same_params(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_saved_and_loaded_is_the_same(tiny, folder):
    backbone = load_backbone(folder)
    assert_same_params(backbone.params, tiny.params)
    assert backbone.config.dtype == jnp.float32  # "auto" on CPU.
    assert backbone.tokenizer is None
    assert backbone.name == str(folder)


def test_every_leaf_of_the_tree_has_a_name(tiny):
    assert hugging_face_names(tiny.config).keys() == shapes(tiny.config).keys()


def test_shards_are_one_model(tiny, folder, shard):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shard(folder, tensors, "model.safetensors", save_file)
    assert_same_params(load_backbone(folder, dtype="float32").params, tiny.params)


def test_bfloat16_in_and_out(tiny, folder):
    rewrite(folder, lambda t: {n: a.astype(ml_dtypes.bfloat16) for n, a in t.items()})
    rounded = jax.tree.map(lambda a: a.astype(jnp.bfloat16), tiny.params)
    stored = load_backbone(folder, dtype="bfloat16")
    assert_same_params(stored.params, rounded)
    wide = load_backbone(folder, dtype="float32")
    assert_same_params(wide.params, jax.tree.map(lambda a: a.astype(jnp.float32), rounded))
    assert wide.config.dtype == jnp.float32 and stored.config.dtype == jnp.bfloat16
    assert stored.fingerprint == wide.fingerprint


def test_fingerprint_is_of_the_values(folder, tmp_path):
    first = load_backbone(folder, dtype="float32").fingerprint
    assert len(first) == 64
    shutil.copytree(folder, tmp_path / "copy")
    assert load_backbone(tmp_path / "copy", dtype="bfloat16").fingerprint == first

    def change(tensors):
        tensors[BIAS][0, 0] += 1

    rewrite(folder, change)
    assert load_backbone(folder, dtype="float32").fingerprint != first


def test_saving_replaces_and_leaves_nothing_behind(tiny, folder):
    save_hugging_face(folder, tiny, dtype="bfloat16")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load_file(folder / "model.safetensors")[BIAS].dtype == ml_dtypes.bfloat16
    with pytest.raises(InputError, match="unknown dtype 'int8'; allowed: float64"):
        save_hugging_face(folder, tiny, dtype="int8")


@pytest.mark.parametrize("prefix", ["module.", "model.", "transformer.", "module.model."])
def test_names_of_a_model_inside_another_are_read(tiny, tiny_llama, tmp_path, prefix):
    for backbone in (tiny, tiny_llama):
        folder = save_hugging_face(tmp_path / backbone.name, backbone)
        fingerprint = load_backbone(folder).fingerprint
        rewrite(folder, lambda tensors: {prefix + name: t for name, t in tensors.items()})
        assert load_backbone(folder).fingerprint == fingerprint


def test_second_names_of_the_table_are_allowed(tiny, folder):
    def change(tensors):
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
        tensors["decoder.embed_tokens.weight"] = tensors["shared.weight"]
        tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = tensors[
            BIAS
        ]

    rewrite(folder, change)
    assert_same_params(load_backbone(folder, dtype="float32").params, tiny.params)

    rewrite(folder, lambda t: {n: a for n, a in t.items() if n != "shared.weight"})
    assert_same_params(load_backbone(folder, dtype="float32").params, tiny.params)


def test_second_names_with_other_numbers_are_not(folder):
    def change(tensors):
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"] + 1

    rewrite(folder, change)
    with pytest.raises(InputError, match=r"encoder.embed_tokens.weight different from the emb"):
        load_backbone(folder)


def test_a_head_that_is_the_table_is_tied(folder):
    def change(tensors):
        tensors["lm_head.weight"] = tensors["shared.weight"].copy()

    rewrite(folder, change)
    backbone = load_backbone(folder, dtype="float32")
    assert backbone.config.tie_embeddings
    assert "head" not in backbone.params


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {n: a for n, a in t.items() if n != BIAS}, f"{BIAS} missing"),
        (lambda t: {**t, "pooler.weight": t[BIAS]}, "pooler.weight not part of this model"),
        (lambda t: {**t, BIAS: t[BIAS].T.copy()}, rf"{BIAS} \[3, 32\] instead of \[32, 3\]"),
        (lambda t: {**t, BIAS: t[BIAS] * math.nan}, f"{BIAS} holds NaN or inf"),
        (lambda t: {**t, BIAS: t[BIAS].astype(np.int32)}, f"{BIAS} is int32; allowed: float64"),
        (
            lambda t: {n: a for n, a in t.items() if "encoder" not in n},
            "encoder.final_layer_norm.weight.* and 17 more missing",
        ),
    ],
)
def test_a_leaf_that_does_not_fit_names_itself(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(InputError, match=message):
        load_backbone(folder)


def test_truncated_safetensors(folder):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    for size in (0, 5, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"model.safetensors is truncated or damaged"):
            load_backbone(folder)
    file.write_bytes(data + b"x")
    with pytest.raises(InputError, match=r"its header describes"):
        load_backbone(folder)


def header(**change):
    row = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change
    return json.dumps({"a": row}).encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not safetensors"),
        (b"[1]", "not safetensors"),
        (b'{"a": 3}', "not safetensors"),
        (b'{"\xff": 3}', "not safetensors"),
        (header(dtype=["F32"]), "not safetensors"),
        (header(shape=["x"]), "not safetensors"),
        (header(shape=[3]), r"a has 8 bytes, which do not make float32\[3\]"),
        (header(data_offsets=[4, 12]), "a begins at byte 4 and not at 0"),
        (header(dtype="I16"), "a is I16; allowed: float64, float32, float16, bfloat16"),
        (header(dtype="U8", shape=[8]), "a is uint8; allowed: .* has a quantization_config"),
        (header(shape=[4], data_offsets=[0, 16]), "a ends behind the end of the file"),
    ],
)
def test_a_safetensors_header_that_lies(folder, text, message):
    data = len(text).to_bytes(8, "little") + text + bytes(8)
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_backbone(folder)


def test_flipped_bits_in_a_safetensors_header(folder):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    # Every bit position would take long; a stride that is prime visits all kinds of bytes.
    for position in range(0, 8 + int.from_bytes(data[:8], "little"), 997):
        file.write_bytes(data)
        flip(file, position)
        with pytest.raises(InputError):
            load_backbone(folder)


def test_flipped_exponent_bits_in_the_numbers(folder):
    def change(tensors):
        tensors[BIAS].view(np.uint32)[0, 0] |= 0x7F800000

    rewrite(folder, change)
    with pytest.raises(InputError, match="holds NaN or inf"):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.json is truncated or damaged: not JSON"),
        ('{"d_model": 16', "config.json is truncated or damaged: not JSON"),
        ("[]", "expected a JSON object, got a list"),
        ('{"model_type": "pegasus"}', "unknown model_type in .*'pegasus'; allowed: t5, mt5, umt5"),
        ('{"d_model": "16"}', "not the config of a supported model"),
        ('{"feed_forward_proj": "gated-swish"}', "unknown T5 activation 'swish'"),
        ('{"d_model": 0}', "T5 d_model must be at least 1, got 0"),
        ('{"num_layers": 1, "d_model": 16}', "and [0-9]+ more not part of this model"),
    ],
)
def test_a_config_that_is_not_one(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_backbone(folder)


def test_a_folder_without_config_or_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no weights; allowed: model.safetensors, .*config"):
        load_backbone(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="has no config.json; give a Hugging Face or a T5X folder"):
        load_backbone(folder)


def test_an_index_that_is_wrong(folder, shard):
    file = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    shard(folder, load_file(file), "model.safetensors", save_file)
    file.unlink()
    right = json.loads(index.read_text())

    def expect(change, message):
        index.write_text(json.dumps({"weight_map": change}))
        with pytest.raises(InputError, match=message):
            open_weights(folder)

    places = right["weight_map"]
    expect(None, "weight_map should give a file name for every weight")
    expect({BIAS: 3}, "weight_map should give a file name for every weight")
    expect({**places, "x": places[BIAS]}, "x is listed but in no shard")
    expect({n: f for n, f in places.items() if n != BIAS}, f"{BIAS} is in a shard but not listed")
    expect({**places, "x": "../model.safetensors"}, "is not a plain file name in its folder")
    expect({**places, "x": "model-4.safetensors"}, "names model-4.safetensors, which is not there")
    index.write_text("{")
    with pytest.raises(InputError, match=r"index.json is truncated or damaged: not JSON"):
        open_weights(folder)


def test_presets_have_the_published_sizes():
    counts = [sum(map(math.prod, shapes(config).values())) for config in PRESETS.values()]
    assert counts == [76_961_152, 247_577_856, 783_150_080, 2_849_757_184, 11_135_332_352]


def test_a_preset_is_random_and_seeded(monkeypatch):
    small = dataclasses.replace(
        PRESETS["t5_1_1_small"],
        vocab_size=64,
        d_model=8,
        d_kv=2,
        d_ff=8,
        num_layers=2,
        num_decoder_layers=3,
    )
    monkeypatch.setitem(PRESETS, "t5_1_1_small", small)
    one = load_backbone("t5_1_1_small", dtype="bfloat16", remat="minimal")
    same = load_backbone("t5_1_1_small", dtype="bfloat16", scan=True)
    other = load_backbone("t5_1_1_small", dtype="bfloat16", seed=1)
    assert_same_params(one.params, same.params)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.tokenizer is None
    assert {leaf.dtype for leaf in jax.tree.leaves(one.params)} == {jnp.dtype("bfloat16")}
    assert not np.array_equal(one.params["embedding"], other.params["embedding"])
    # The rule of scan=None: each layer apart on CPU.
    assert (one.config.remat, one.config.scan, same.config.scan) == ("minimal", False, True)


def test_options_are_checked_first(folder):
    with pytest.raises(InputError, match="unknown dtype 'float16'; allowed: auto, float32"):
        load_backbone(folder, dtype="float16")
    with pytest.raises(InputError, match="unknown remat 'some'; allowed: none, minimal, full"):
        load_backbone(folder, remat="some")


def test_loading_imports_no_torch_and_no_tensorflow(folder):
    code = (
        f"import sys; from prompt_jax.weights import load_backbone; load_backbone({str(folder)!r});"
        "bad = {'torch', 'tensorflow', 'transformers'} & set(sys.modules); sys.exit(str(bad or 0))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip().endswith("0"), result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--dtype", "bfloat16", "--mesh", "1x4x2"]])
def test_loading_needs_little_more_memory_than_the_model(options):
    script = Path(__file__).parents[1] / "benchmarks" / "load_memory.py"
    command = [sys.executable, str(script), "--preset", "t5_1_1_base", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    (ratio,) = re.findall(r"^ratio +([0-9.]+)", result.stdout, re.MULTILINE)
    assert float(ratio) <= 1.1
