import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.backbones import init_params
from prompt_jax.backbones.attention import attend
from prompt_jax.backbones.blocks import relative_buckets
from prompt_jax.backbones.layers import RMSNorm
from prompt_jax.backbones.t5 import PRESETS, T5Config, from_hugging_face
from prompt_jax.config import InputError

# Raffel et al. 2020 and the published T5 1.1 checkpoints.
PARAMETERS = {
    "t5_1_1_small": 76_961_152,
    "t5_1_1_base": 247_577_856,
    "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184,
    "t5_1_1_xxl": 11_135_332_352,
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name):
    shapes = jax.eval_shape(lambda key: init_params(PRESETS[name], key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]


def test_near_distances_have_their_own_bucket_and_far_ones_share():
    at = jnp.arange(200)
    both = np.asarray(relative_buckets(at, at, bidirectional=True))
    assert both[100, 93:108].tolist() == [7, 6, 5, 4, 3, 2, 1, 0, 17, 18, 19, 20, 21, 22, 23]
    edges = [d for d in range(1, 128) if both[d, 0] != both[d - 1, 0]]
    assert edges == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
    causal = np.asarray(relative_buckets(at, at, bidirectional=False))
    assert (causal[np.triu_indices(200)] == 0).all()
    assert causal[:, 0].max() == 31 and causal[127, 0] == 31


def test_attention_is_the_formula():
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (jax.random.normal(k, (2, 3, 4, 5)) for k in keys[:3])
    bias = jax.random.normal(keys[3], (2, 1, 3, 3))
    ours = attend(query, key, value, [bias])
    q, k, v, b = (np.asarray(x, np.float64) for x in (query, key, value, bias))
    for row in range(2):
        for head in range(4):
            scores = np.exp(q[row, :, head] @ k[row, :, head].T + b[row, 0])
            expected = scores / scores.sum(-1, keepdims=True) @ v[row, :, head]
            np.testing.assert_allclose(ours[row, :, head], expected, atol=1e-5)


def test_hugging_face_configs():
    base = {"model_type": "t5", "d_model": 8, "num_layers": 3, "feed_forward_proj": "gated-gelu"}
    config = from_hugging_face({**base, "tie_word_embeddings": False}, tie_embeddings=False)
    assert (config.gated, config.activation, config.scale_logits) == (True, "gelu_new", False)
    assert config.num_decoder_layers == 3 and not config.bias_per_layer
    old = from_hugging_face({"model_type": "t5", "feed_forward_proj": "relu"}, tie_embeddings=True)
    assert (old.gated, old.activation, old.scale_logits) == (False, "relu", True)
    umt5 = from_hugging_face({**base, "model_type": "umt5"}, tie_embeddings=True)
    assert umt5.bias_per_layer and umt5.scale_logits
    assert not from_hugging_face({**base, "model_type": "mt5"}, tie_embeddings=True).scale_logits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: T5Config(d_model=0), "T5 d_model must be at least 1, got 0"),
        (lambda: T5Config(activation="geluu"), "unknown T5 activation.*meant 'gelu'"),
        (lambda: T5Config(remat="all"), "unknown remat"),
        (
            lambda: from_hugging_face({"model_type": "bart"}, tie_embeddings=True),
            "unknown T5 model type",
        ),
    ],
)
def test_bad_configs(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_heads_share_the_scale_of_their_row():
    """As many heads as rows: a scale a row must not be taken for one a head."""
    norm, rng = RMSNorm(8), np.random.default_rng(0)
    x, scales = jnp.array(rng.normal(size=(4, 3, 4, 8))), jnp.array(rng.normal(size=(4, 8)))
    params = {"scale": jnp.ones(8)}
    batch = norm.apply({"params": params, "tuned": {"scale": scales}}, x)
    rows = [
        norm.apply({"params": params, "tuned": {"scale": scale}}, row[None])
        for row, scale in zip(x, scales, strict=True)
    ]
    np.testing.assert_array_equal(batch, jnp.concatenate(rows))
