"""What the config.json of an encoder, a BART or a T5Gemma may ask for, and what is refused."""

import pytest

from prompt_jax.backbones import bart, bert, modernbert, t5gemma
from prompt_jax.backbones.causal import Rope
from prompt_jax.config import InputError

DEBERTA = {
    **{"model_type": "deberta-v2", "vocab_size": 61, "hidden_size": 16, "num_attention_heads": 4},
    **{"intermediate_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 40},
    **{"relative_attention": True, "position_biased_input": False},
}
MODERNBERT = {"model_type": "modernbert", "num_hidden_layers": 4}
BART = {"model_type": "bart"}
T5GEMMA = {"model_type": "t5gemma2", "decoder": {"hidden_size": 16}}


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        (bert, DEBERTA | {"conv_kernel_size": 3}, "conv_kernel_size 3"),
        (bert, DEBERTA | {"embedding_size": 8}, "embedding_size 8"),
        (bert, DEBERTA | {"position_biased_input": True}, "position_biased_input True"),
        (bert, DEBERTA | {"relative_attention": None}, "relative_attention False"),
        (bert, DEBERTA | {"pos_att_type": "p2p"}, "pos_att_type .*allowed: some of c2p, p2c"),
        (modernbert, MODERNBERT | {"decoder_bias": False}, "decoder_bias False"),
        (modernbert, MODERNBERT | {"classifier_pooling": "max"}, "classifier_pooling"),
        (modernbert, MODERNBERT | {"layer_types": ["full_attention"]}, "layer_types"),
        (bart, BART | {"normalize_before": True}, "normalize_before True"),
        (bart, BART | {"forced_eos_token_id": [1, 2]}, r"forced_eos_token_id \[1, 2\]"),
        (t5gemma, T5GEMMA, "decoder.hidden_size 16.*allowed: 2304, the encoder's"),
        (
            bart,
            BART | {"decoder_attention_heads": 3},
            "heads of a bart share its width, got 3 heads of 341",
        ),
    ],
)
def test_options_that_change_the_numbers(family, values, message):
    with pytest.raises(InputError, match=message):
        family.from_hugging_face(values)


def test_a_modernbert_of_before_transformers_5():
    values = {"global_attn_every_n_layers": 3, "local_attention": 128, "local_rope_theta": 1e4}
    config = modernbert.from_hugging_face(MODERNBERT | values | {"global_rope_theta": 1.6e5})
    assert (config.full_layers, config.sliding_window) == ((0, 3), 64)
    assert (config.rope, config.sliding_rope) == (Rope(1.6e5), Rope(1e4))
    alike = modernbert.from_hugging_face(MODERNBERT | values | {"local_rope_theta": None})
    assert alike.sliding_rope == alike.rope


def test_distances_of_a_published_deberta():
    """As the config.json of v3 says them."""
    values = {"pos_att_type": "p2c|c2p", "position_buckets": 256, "max_relative_positions": -1}
    values |= {"share_att_key": True, "norm_rel_ebd": "layer_norm", "max_position_embeddings": 512}
    config = bert.from_hugging_face(DEBERTA | values)
    assert config.distances == bert.Distances()
    assert bert.from_hugging_face(bert.to_hugging_face(config, "float32")) == config


def test_a_first_token_is_read_and_not_written():
    config = bart.from_hugging_face(BART | {"forced_bos_token_id": 0})
    assert config.start_tokens == (2, 0) and config.final_token_id == 2
