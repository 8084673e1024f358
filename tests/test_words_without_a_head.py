"""An untied model without its head, as base models are saved: it reads, and writes no words."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import prompt_jax as pj
from prompt_jax.config import InputError
from prompt_jax.generate import generate, score
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init
from prompt_jax.serve.encoding import Inputs
from prompt_jax.weights import load_backbone, save_hugging_face

TOKENS, MASK = np.array([[5, 6, 7]]), np.ones((1, 3), bool)
WRITES = pj.PromptTuningConfig(num_virtual_tokens=2, init="random")
READS = dataclasses.replace(WRITES, task_type="SEQ_CLS", num_labels=2)


def without_head(folder, backbone, tied=False):
    """The backbone saved without lm_head.weight, and loaded again."""
    save_hugging_face(folder, backbone)
    tensors = load_file(folder / "model.safetensors")
    assert tensors.pop("lm_head.weight", None) is not None
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    return load_backbone(folder, dtype="float32")


def model(backbone, method):
    return pj.PromptTuningModel.from_pretrained(backbone, method)


USES = {
    "generate": lambda b, task: generate(b, None, TOKENS, MASK, max_new_tokens=1),
    "score": lambda b, task: score(b, None, TOKENS, MASK, TOKENS, MASK),
    "loss": lambda b, task: loss_fn(dataclasses.replace(WRITES, task_type=task), b),
    "model": lambda b, task: model(b, dataclasses.replace(WRITES, task_type=task)),
    "serve": lambda b, task: Inputs(b, (8,)).scoring([5, 6], [[7], [8]], True),
}


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_an_untied_model_without_a_head(family, tiny, tiny_llama, tmp_path):
    whole = tiny if family == "t5" else tiny_llama
    backbone = without_head(tmp_path / "base", whole)
    task = backbone.task_types[0]
    for use in USES.values():
        with pytest.raises(InputError, match="has no head that writes words"):
            use(backbone, task)
    # Saved again it still has none.
    again = load_backbone(save_hugging_face(tmp_path / "again", backbone), dtype="float32")
    assert not again.config.word_head and again.fingerprint == backbone.fingerprint


def test_a_decoder_without_a_head_reads(tiny_llama, tmp_path):
    backbone = without_head(tmp_path / "base", tiny_llama)
    with pytest.raises(InputError, match="has no head that writes words"):
        model(backbone, None)(TOKENS)
    classes = model(backbone, READS)(TOKENS).logits
    tuned = init(READS, tiny_llama, jax.random.key(0))
    assert classes.shape == (1, 2) and np.isfinite(classes).all()
    assert jax.tree.map(np.shape, tuned) == jax.tree.map(np.shape, model(backbone, READS).tuned)


def test_a_tied_model_stores_no_head(tiny, tmp_path):
    backbone = without_head(tmp_path / "tied", tiny, tied=True)
    assert backbone.config.word_head and backbone.config.tie_embeddings
