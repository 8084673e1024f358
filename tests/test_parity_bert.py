"""Encoder-only models against Hugging Face's in torch, on tiny random weights."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from parity import (
    BERT,
    DEBERTA,
    DISTILBERT,
    MODERNBERT,
    apply,
    assert_round_trip,
    close,
    padded_left,
    texts,
    torch_model,
)

from prompt_jax.weights import load_backbone

torch = pytest.importorskip("torch", reason="parity needs torch: pip install prompt-jax[parity]")
pytestmark = pytest.mark.parity

CONFIGS = {
    "bert": ("Bert", BERT),
    "distilbert": ("DistilBert", DISTILBERT),
    "roberta": ("Roberta", BERT | {"pad_token_id": 1, "type_vocab_size": 1}),
    "xlm_roberta": ("XLMRoberta", BERT | {"pad_token_id": 1, "hidden_act": "gelu_new"}),
    "deberta": ("DebertaV2", DEBERTA),
    "deberta_apart": (
        "DebertaV2",
        DEBERTA
        | {"share_att_key": False, "norm_rel_ebd": "none", "position_buckets": -1}
        | {"max_relative_positions": 5, "type_vocab_size": 2},
    ),
    "deberta_c2p": ("DebertaV2", DEBERTA | {"pos_att_type": ["c2p"], "share_att_key": False}),
    "modernbert": ("ModernBert", MODERNBERT),
    "modernbert_biased": (
        "ModernBert",
        MODERNBERT
        | {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True}
        | {"global_attn_every_n_layers": 2, "classifier_pooling": "mean"},
    ),
}


# Fields of a family that others of its rows have too.
LATER = ("xlm_roberta", "deberta_apart", "deberta_c2p", "modernbert_biased")


def named(later):
    return [pytest.param(n, marks=pytest.mark.slow) if n in later else n for n in CONFIGS]


@pytest.fixture(scope="module", params=named(LATER))
def both(request, tmp_path_factory):
    """The same model in torch and here, the latter from the former's folder."""
    folder = tmp_path_factory.mktemp(request.param)
    model = torch_model(*CONFIGS[request.param], "ForMaskedLM")
    model.save_pretrained(folder)
    return model, load_backbone(folder, scan=True)


def test_logits_wherever_padding_stands(both):
    model, backbone = both
    tokens, mask = texts(pad=backbone.config.pad_token_id)
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), attention_mask=torch.tensor(mask).long()).logits
    close(
        np.asarray(apply(backbone, backbone.embed(tokens), jnp.asarray(mask)))[mask], theirs[mask]
    )
    left, behind = padded_left(tokens, mask)
    ours = apply(backbone, backbone.embed(left), jnp.asarray(behind))
    close(np.asarray(ours)[behind], theirs[mask])


@pytest.mark.parametrize("both", ["bert"], indirect=True)
def test_pairs_have_segments(both):
    """Whatever follows the first separator is of the second segment, where a family has one."""
    model, backbone = both
    separator = 7
    backbone = dataclasses.replace(
        backbone, config=dataclasses.replace(backbone.config, sep_token_id=separator)
    )
    tokens, mask = texts()
    tokens = np.where(tokens == separator, 8, tokens)
    tokens[0, [3, 8]] = tokens[1, [1, 4]] = tokens[2, 1] = separator
    types = np.zeros_like(tokens)
    types[0, 4:], types[1, 2:5] = 1, 1
    given = {"attention_mask": torch.tensor(mask).long(), "token_type_ids": torch.tensor(types)}
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), **given).logits
    ours = apply(backbone, backbone.embed(tokens), jnp.asarray(mask))
    close(np.asarray(ours)[mask], theirs[mask])


@pytest.mark.slow
def test_a_deberta_that_calls_its_head_otherwise(tmp_path):
    """As the published ones do; Transformers reads that where config.json says legacy: false."""
    model = torch_model("DebertaV2", DEBERTA, "ForMaskedLM", legacy=False)
    model.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, scan=True)
    tokens, mask = texts()
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), attention_mask=torch.tensor(mask).long()).logits
    ours = apply(backbone, backbone.embed(tokens), jnp.asarray(mask))
    close(np.asarray(ours)[mask], theirs[mask])


def test_back_to_a_folder(both, tmp_path):
    assert_round_trip(*both, tmp_path)


@pytest.mark.parametrize("name", named((*LATER, "deberta", "modernbert")))
def test_states_and_pooler_of_a_bare_model(tmp_path, name):
    """Its weights lack their root, and it has no head to fill masks with."""
    model = torch_model(*CONFIGS[name], "Model")
    model.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, scan=True)
    assert not backbone.config.word_head
    assert backbone.config.pooler == (name in ("bert", "roberta", "xlm_roberta"))
    tokens, mask = texts(pad=backbone.config.pad_token_id)
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), attention_mask=torch.tensor(mask).long())
    states = apply(backbone, backbone.embed(tokens), jnp.asarray(mask), method="encode")
    close(np.asarray(states)[mask], theirs.last_hidden_state[mask])
    if name == "bert":
        close(apply(backbone, states, jnp.asarray(mask), method="pool"), theirs.pooler_output)
