"""Weights that are stored in few bits, against the libraries that made them."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import parity
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from prompt_jax.config import InputError
from prompt_jax.weights import load_backbone, save_hugging_face
from prompt_jax.weights.few_bits import unpacked
from prompt_jax.weights.safetensors import open_safetensors

GOLDEN = Path(__file__).parent / "golden" / "few_bits.safetensors"
with safe_open(GOLDEN, "np") as header:
    SETTINGS = {name: json.loads(text) for name, text in sorted(header.metadata().items())}


def parts_of(name, stem):
    """The stored tensors of a format's weight, under a module's name, and what they stand for."""
    parts = {
        part.removeprefix(f"{name}/"): tensor
        for part, tensor in open_safetensors(GOLDEN).items()
        if part.startswith(f"{name}/")
    }
    return {f"{stem}.{part}": tensor for part, tensor in parts.items()}, parts["values"].read()


@pytest.mark.parametrize("name", SETTINGS)
def test_values_are_the_library_s_to_the_bit(name):
    tensors, values = parts_of(name, "layer")
    del tensors["layer.values"]
    (weight,) = unpacked(Path("config.json"), tensors, SETTINGS[name]).items()
    assert weight[0] == "layer.weight"
    assert weight[1].shape == values.shape
    np.testing.assert_array_equal(weight[1].read(), values)


@pytest.fixture(scope="module")
def folder(tiny_llama, tmp_path_factory):
    return save_hugging_face(tmp_path_factory.mktemp("few_bits") / "model", tiny_llama)


STEM = "model.layers.0.mlp.down_proj"


def stored(folder, copy, name):
    """A copy of a model with one weight in few bits, and one with the values that it stands for."""
    parts, values = parts_of(name, STEM)
    del parts[f"{STEM}.values"]
    weights = load_file(folder / "model.safetensors")
    del weights[f"{STEM}.weight"]
    settings = {"quantization_config": SETTINGS[name]}
    wide, small = copy / "wide", copy / "small"
    for model, tensors, more in (
        (wide, {f"{STEM}.weight": values}, {}),
        (small, {part: tensor.read() for part, tensor in parts.items()}, settings),
    ):
        shutil.copytree(folder, model)
        save_file({**weights, **tensors}, model / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | more))
    return small, wide


@pytest.mark.parity
@pytest.mark.parametrize("name", SETTINGS)
def test_a_folder_is_the_model_of_its_values(folder, tmp_path, name):
    torch = pytest.importorskip("torch", reason="pip install prompt-jax[parity]")
    from transformers import AutoModelForCausalLM

    small, wide = stored(folder, tmp_path, name)
    backbone = load_backbone(small, dtype="float32")
    assert backbone.fingerprint == load_backbone(wide, dtype="float32").fingerprint
    tokens, mask = parity.texts()
    hf = AutoModelForCausalLM.from_pretrained(wide, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = hf(torch.tensor(tokens), attention_mask=torch.tensor(mask)).logits
    logits = parity.apply(backbone, backbone.embed(tokens), jnp.asarray(mask))
    assert parity.difference(np.asarray(logits)[mask], expected.numpy()[mask]) < 1e-5


def test_few_bits_may_be_kept_small(folder, tmp_path):
    small, _ = stored(folder, tmp_path, "nf4")
    kept = load_backbone(small, dtype="int8").params["decoder"]["layers"]["mlp"]["wo"]["kernel"]
    assert kept.dtype == np.int8


def test_few_bits_that_are_not_known_are_refused(folder, tmp_path):
    small, _ = stored(folder, tmp_path, "int8")
    file = small / "config.json"
    config = json.loads(file.read_text())

    def load(settings):
        file.write_text(json.dumps(config | {"quantization_config": settings}))
        load_backbone(small)

    with pytest.raises(
        InputError, match="down_proj.SCB|down_proj.weight is int8; allowed: float64"
    ):
        load(None)
    with pytest.raises(
        InputError, match="quant_method in .*'hqq'; allowed: bitsandbytes, compress"
    ):
        load({"quant_method": "hqq"})
    with pytest.raises(InputError, match="weight is int8; allowed"):
        load({"quant_method": "awq"})
    awq, _ = stored(folder, tmp_path / "awq", "awq")
    file, config = awq / "config.json", json.loads((awq / "config.json").read_text())
    config["quantization_config"]["version"] = "gemv"
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match="quantization_config.version 'gemv'; allowed: gemm"):
        load_backbone(awq)
