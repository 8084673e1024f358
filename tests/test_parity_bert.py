"""Encoder-only models against Hugging Face's in torch, on tiny random weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.weights import load_backbone, save_hugging_face

torch = pytest.importorskip("torch", reason="parity needs torch: pip install prompt-jax[parity]")
pytestmark = pytest.mark.parity

BERT = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DISTILBERT = {
    **{"vocab_size": 61, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4},
    **{"max_position_embeddings": 40, "pad_token_id": 0},
}
CONFIGS = {
    "bert": ("Bert", BERT),
    "distilbert": ("DistilBert", DISTILBERT),
    "roberta": ("Roberta", BERT | {"pad_token_id": 1, "type_vocab_size": 1}),
    "xlm_roberta": ("XLMRoberta", BERT | {"pad_token_id": 1, "hidden_act": "gelu_new"}),
}


def made(folder, kind, values, head):
    """A model of transformers' with all its weights random, saved."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**values)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{kind}{head}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # Biases and norms too, which start at 0 and 1.
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def both(request, tmp_path_factory):
    """The same model in torch and here, the latter from the former's folder."""
    folder = tmp_path_factory.mktemp(request.param)
    model = made(folder, *CONFIGS[request.param], "ForMaskedLM")
    return model, load_backbone(folder, scan=True), folder


def texts(pad=0):
    rng = np.random.default_rng(0)
    mask = np.arange(9) < np.array([9, 5, 2])[:, None]
    return np.where(mask, rng.integers(2, 61, (3, 9)), pad), mask


def close(ours, theirs):
    theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else theirs
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@functools.cache
def _compiled(module):
    return jax.jit(module.apply, static_argnames="method")


def apply(backbone, *arguments, **options):
    return _compiled(backbone.module)({"params": backbone.params}, *arguments, **options)


def test_logits_wherever_padding_stands(both):
    model, backbone, _ = both
    tokens, mask = texts(backbone.config.pad_token_id)
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), attention_mask=torch.tensor(mask).long()).logits
    close(
        np.asarray(apply(backbone, backbone.embed(tokens), jnp.asarray(mask)))[mask], theirs[mask]
    )
    left = np.stack([np.roll(row, len(row) - m.sum()) for row, m in zip(tokens, mask, strict=True)])
    behind = np.sort(mask, axis=1)
    ours = apply(backbone, backbone.embed(left), jnp.asarray(behind))
    close(np.asarray(ours)[behind], theirs[mask])


def test_pairs_have_segments(both):
    """Whatever follows the first separator is of the second segment, where a family has one."""
    model, backbone, _ = both
    if model.config.model_type != "bert":
        pytest.skip("it has no second segment")
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


def test_back_to_a_folder(both, tmp_path):
    model, backbone, _ = both
    again = load_backbone(save_hugging_face(tmp_path / "again", backbone), scan=True)
    assert again.fingerprint == backbone.fingerprint and again.config == backbone.config
    loaded = type(model).from_pretrained(tmp_path / "again")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_layers_apart_are_layers_scanned(both):
    _, backbone, folder = both
    tokens, mask = texts()
    apart = load_backbone(folder, scan=False)
    given = backbone.embed(tokens), jnp.asarray(mask)
    ours = jax.jit(apart.module.apply)({"params": apart.unstacked()}, *given)
    close(np.asarray(ours)[mask], np.asarray(apply(backbone, *given))[mask])


@pytest.mark.parametrize("name", CONFIGS)
def test_states_and_pooler_of_a_bare_model(tmp_path, name):
    """Its weights lack their root, and it has no head to fill masks with."""
    model = made(tmp_path, *CONFIGS[name], "Model")
    backbone = load_backbone(tmp_path, scan=True)
    assert not backbone.config.word_head
    assert backbone.config.pooler == (name != "distilbert")
    tokens, mask = texts(backbone.config.pad_token_id)
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), attention_mask=torch.tensor(mask).long())
    states = apply(backbone, backbone.embed(tokens), jnp.asarray(mask), method="encode")
    close(np.asarray(states)[mask], theirs.last_hidden_state[mask])
    if name == "bert":
        close(apply(backbone, states, jnp.asarray(mask), method="pool"), theirs.pooler_output)
