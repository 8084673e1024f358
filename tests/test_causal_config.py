"""Configs and names of decoder-only models: what is read, and what is refused."""

import json
import math
from types import SimpleNamespace

import pytest

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.causal import (
    CausalConfig,
    Rope,
    canonical,
    from_hugging_face,
    to_hugging_face,
)
from prompt_jax.backbones.config import end_ids
from prompt_jax.config import InputError
from prompt_jax.testing import tiny
from prompt_jax.weights import load_backbone, save_hugging_face
from prompt_jax.weights.mapping import shapes
from prompt_jax.weights.stored import is_buffer

LLAMA = {
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gptj"}, "unknown model type 'gptj'.*Perhaps you meant 'gpt2'"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention True.*not supp"),
        (
            {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True},
            "allowed: False; use another checkpoint",
        ),
        (
            LLAMA | {"rope_scaling": {"type": "dynamic"}},
            "unknown rope_type 'dynamic'; allowed: default",
        ),
        (
            LLAMA | {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "rope_parameters .*full_attention.*allowed: the same for all layers",
        ),
        (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5, which is not supp"),
        (
            LLAMA | {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}},
            "short_factor must have 2 numbers, one for each pair of a head that turns, got 1",
        ),
        (LLAMA | {"hidden_act": "swish"}, "unknown activation 'swish'"),
        (
            {"model_type": "gemma3_text", "use_bidirectional_attention": True},
            "use_bidirectional_attention True, which is not supported",
        ),
        (
            LLAMA | {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types .*allowed: 'full_attention' for each of 2 layers",
        ),
        (
            LLAMA | {"model_type": "mistral", "sliding_window": 4, "layer_types": ["chunked"] * 2},
            "allowed: 'full_attention' or 'sliding_attention' for each of 2 layers",
        ),
        (
            LLAMA | {"model_type": "mistral", "sliding_window": 4, "layer_types": ["x"]},
            r"layer_types \['x'\], which is not",
        ),
        (
            {"model_type": "gpt2", "n_embd": 9, "n_head": 2},
            "heads of a gpt2 share its width, got 2",
        ),
        (
            LLAMA | {"model_type": "opt", "ffn_dim": 8, "word_embed_proj_dim": 4},
            "word_embed_proj_dim 4, which is not supported; allowed: 8",
        ),
        (LLAMA | {"num_key_value_heads": 3}, "num_heads must be a multiple of num_kv_heads, got 2"),
    ],
)
def test_configs_that_are_not_supported(values, message):
    with pytest.raises(InputError, match=message):
        from_hugging_face(values, tie_embeddings=True)


def test_a_gemma_leaves_out_most_of_its_shape():
    """As the published ones do: sizes, and how positions are stretched."""
    text = {
        **{"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240},
        **{"num_hidden_layers": 34, "sliding_window": 1024, "eos_token_id": 1},
        **{"rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
    }
    config = from_hugging_face(
        {"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": text},
        tie_embeddings=True,
    )
    assert config.model_type == "gemma3_text" and config.eos_token_ids == (1, 106)
    assert config.full_layers == (5, 11, 17, 23, 29) and config.sliding_window == 1024
    assert (config.rope.theta, config.rope.factor, config.sliding_rope.theta) == (1e6, 8.0, 1e4)
    assert (config.num_heads, config.num_kv_heads, config.d_kv) == (8, 4, 256)
    assert (config.logit_cap, config.query_scale) == (None, None)
    # The parameters that their papers tell: 2.61 and 3.88 thousand million, towers apart.
    assert sum(map(math.prod, shapes(config).values())) == 3_880_263_168
    config = from_hugging_face({"model_type": "gemma2"}, tie_embeddings=True)
    assert sum(map(math.prod, shapes(config).values())) == 2_614_341_888
    assert (config.full_layers, config.attention_cap) == (tuple(range(1, 26, 2)), 50.0)


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        (  # Pythia 70M, as its first file says it.
            {
                **{"model_type": "gpt_neox", "hidden_size": 512, "num_hidden_layers": 6},
                **{"num_attention_heads": 8, "intermediate_size": 2048, "vocab_size": 50304},
                **{"rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": True},
            },
            70_426_624,
        ),
        (  # OPT 125M.
            {
                **{"model_type": "opt", "hidden_size": 768, "num_hidden_layers": 12},
                **{"num_attention_heads": 12, "ffn_dim": 3072, "vocab_size": 50272},
                **{"max_position_embeddings": 2048, "word_embed_proj_dim": 768},
            },
            125_239_296,
        ),
        (  # Phi-3 mini.
            {
                **{"model_type": "phi3", "hidden_size": 3072, "num_hidden_layers": 32},
                **{"num_attention_heads": 32, "intermediate_size": 8192, "vocab_size": 32064},
            },
            3_821_079_552,
        ),
    ],
)
def test_parameters_are_as_many_as_published(values, parameters):
    config = from_hugging_face(values, tie_embeddings=values["model_type"] == "opt")
    assert sum(map(math.prod, shapes(config).values())) == parameters


def test_a_part_of_a_head_turns():
    values = LLAMA | {"model_type": "gpt_neox", "hidden_size": 16}
    older = values | {"rotary_pct": 0.5, "rotary_emb_base": 500}
    config = from_hugging_face(older, tie_embeddings=True)
    assert config.rope == Rope(500, part=0.5) and config.rope.turning(config.d_kv) == 4
    assert from_hugging_face(values, tie_embeddings=True).rope.part == 0.25
    rope = to_hugging_face(config, "float32")["rope_parameters"]
    assert rope["partial_rotary_factor"] == 0.5


def test_configs_of_older_transformers():
    scaled = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    config = from_hugging_face(LLAMA | scaled, tie_embeddings=False)
    assert config.rope.theta == 5e5 and config.rope.factor == 2.0
    qwen = LLAMA | {"model_type": "qwen2", "sliding_window": 4, "use_sliding_window": False}
    config = from_hugging_face(qwen, tie_embeddings=False)
    assert config.sliding_window is None and config.qkv_bias and not config.out_bias


@pytest.mark.parametrize(
    ("values", "window", "full"),
    [
        ({"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 1}, 4, (0,)),
        ({"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 2}, None, ()),
        ({"model_type": "qwen2", "use_sliding_window": True}, None, ()),
        ({"model_type": "mistral"}, 4, ()),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 2}, None, ()),
        ({"model_type": "llama"}, None, ()),
    ],
)
def test_which_layers_have_a_window(values, window, full):
    config = from_hugging_face(LLAMA | {"sliding_window": 4} | values, tie_embeddings=True)
    assert (config.sliding_window, config.full_layers) == (window, full)


def test_which_layers_turn_no_position():
    values = LLAMA | {"model_type": "smollm3", "num_hidden_layers": 8, "sliding_window": 4}
    values |= {"num_key_value_heads": 1}
    config = from_hugging_face(values, tie_embeddings=True)
    assert (config.nope_layers, config.sliding_window) == ((3, 7), None)
    flags = {"no_rope_layers": [1, 1, 0, 1, 1, 1, 1, 1, 0, 0], "use_sliding_window": True}
    config = from_hugging_face(values | flags, tie_embeddings=True)
    assert (config.nope_layers, config.full_layers) == ((2,), (0, 1, 3, 4, 5, 6, 7))
    with pytest.raises(InputError, match=r"no_rope_layers \[1\].*a 0 or 1 for each of 8 layers"):
        from_hugging_face(values | {"no_rope_layers": [1]}, tie_embeddings=True)


def test_windows_of_layers_that_are_not_there():
    for layers in ((2,), (0, 1)):
        with pytest.raises(InputError, match=r"some of the 2 layers, 0 to 1, got \("):
            CausalConfig(num_layers=2, sliding_window=4, full_layers=layers)


def test_yarn_makes_room_for_longer_texts():
    scaled = {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 32}
    config = from_hugging_face(LLAMA | scaled, tie_embeddings=True)
    assert config.rope.original == 32 and config.max_positions == 128


def test_bare_names_and_buffers_of_old_checkpoints():
    found = canonical({"wte.weight": 1, "h.0.attn.c_attn.bias": 3}, "gpt2")
    assert found == {"transformer.wte.weight": 1, "transformer.h.0.attn.c_attn.bias": 3}
    found = canonical({"gpt_neox.embed_in.weight": 1, "embed_out.weight": 2}, "gpt_neox")
    assert found == {"gpt_neox.embed_in.weight": 1, "lm_head.weight": 2}
    assert is_buffer("gpt_neox.layers.0.attention.bias")
    assert is_buffer("h.0.attn.bias") and not is_buffer("h.0.attn.c_attn.bias")


def test_an_architecture_that_is_not_there_names_those_that_are(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_neo"}))
    with pytest.raises(InputError, match="unknown model_type in .*allowed: t5, mt5, umt5, gpt2"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("pad", "eos", "filler", "padding"),
    [
        (None, 5, 5, None),  # GPT-2: word 0 is a word.
        (None, None, 0, None),
        (0, 5, 0, 0),
        (5, 5, 5, None),  # The end of a text in place of padding may stand in a text.
        (-1, 5, 5, -1),
        (8, 5, 5, 8),  # Added to the tokenizer, but not to the table.
    ],
)
def test_padding(pad, eos, filler, padding):
    values = LLAMA | {"pad_token_id": pad, "eos_token_id": eos}
    config = from_hugging_face(values, tie_embeddings=True)
    backbone = Backbone(name="llama", config=config, params={})
    assert (config.filler, backbone.padding) == (filler, padding)
    assert to_hugging_face(config, "float32")["pad_token_id"] == pad


def test_ends_are_those_of_every_file_and_of_the_tokenizer(tmp_path):
    source = tiny("llama")
    save_hugging_face(tmp_path, source)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["eos_token_id"] == 1
    (tmp_path / "config.json").write_text(json.dumps(values | {"eos_token_id": [9, 8]}))
    generation = {"eos_token_id": [8, 7], "transformers_version": "5"}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    tokenizer = SimpleNamespace(eos_token_id=5, get_vocab=dict)
    backbone = load_backbone(tmp_path, tokenizer=tokenizer)
    assert backbone.config.eos_token_ids == (5, 9, 8, 7)
    assert to_hugging_face(backbone.config, "float32")["eos_token_id"] == [5, 9, 8, 7]
    assert end_ids({"eos_token_id": -1}, {}, {"eos_token_id": None}) == ()
