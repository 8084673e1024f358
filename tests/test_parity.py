"""Our logits are Hugging Face torch's, on tiny random models of every kind of T5."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_golden import CASES, GOLDEN, inputs, numbers, torch_logits, torch_model

from prompt_jax.backbones import t5
from prompt_jax.weights import load_backbone, save_hugging_face
from prompt_jax.weights.mapping import hugging_face_shapes


@functools.cache
def compiled(config):
    """One program for all models of a shape: compiling is most of the time of these tests."""
    module = t5.T5(config)

    def run(params, tokens, mask, decoder_tokens):
        embeddings = module.apply({"params": params}, tokens, method="embed")
        return module.apply({"params": params}, embeddings, mask, decoder_tokens)

    return jax.jit(run)


def logits_of(backbone, *batch):
    return np.asarray(compiled(backbone.config)(backbone.params, *map(jnp.asarray, batch)))


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error < 1e-4, f"relative error {error:.2e}"


@pytest.mark.parametrize("name", CASES)
def test_golden_logits(name, tmp_path):
    from safetensors.numpy import save_file

    golden = json.loads(GOLDEN.read_text())[name]
    config = t5.from_hugging_face(golden["config"], tie_embeddings=golden["tied"])
    weights = {name: numbers(name, shape) for name, shape in hugging_face_shapes(config).items()}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(golden["config"]))
    backbone = load_backbone(tmp_path, dtype="float32", scan=True)
    logits = logits_of(backbone, *inputs(config.vocab_size))
    assert_same(logits[1], np.array(golden["logits"]))


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_torch_logits(name, tmp_path):
    pytest.importorskip("torch")
    model = torch_model(*CASES[name])
    model.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, dtype="float32", scan=True)
    assert backbone.config.tie_embeddings == CASES[name][2]
    batch = inputs(model.config.vocab_size)
    assert_same(logits_of(backbone, *batch), torch_logits(model, *batch))


@pytest.mark.parity
def test_torch_logits_at_long_distances(tmp_path):
    pytest.importorskip("torch")
    family, config, tied = CASES["t5_1_1"]
    config = {
        **config,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    }
    model = torch_model(family, config, tied)
    model.save_pretrained(tmp_path)
    batch = inputs(model.config.vocab_size, source_length=300, target_length=150)
    backbone = load_backbone(tmp_path, dtype="float32", scan=True)
    assert_same(logits_of(backbone, *batch), torch_logits(model, *batch))


@pytest.mark.parity
@pytest.mark.parametrize("name", ["t5_1_0", "t5_1_1", "mt5", "umt5_own_head", "exact_gelu"])
def test_torch_loads_what_we_save(name, tmp_path):
    pytest.importorskip("torch")
    import transformers

    model = torch_model(*CASES[name])
    model.save_pretrained(tmp_path / "theirs")
    backbone = load_backbone(tmp_path / "theirs", dtype="float32")
    save_hugging_face(tmp_path / "ours", backbone)
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours").eval()
    batch = inputs(model.config.vocab_size)
    assert_same(torch_logits(again, *batch), torch_logits(model, *batch))
    ours = load_backbone(tmp_path / "ours", dtype="float32")
    assert (ours.fingerprint, ours.config) == (backbone.fingerprint, backbone.config)
