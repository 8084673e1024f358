"""Decoder-only models against Hugging Face's in torch, on tiny random weights."""

import copy
import json

import jax.numpy as jnp
import numpy as np
import parity
import pytest
from parity import apply, assert_round_trip, close, padded_left, texts, torch_model

from prompt_jax.backbones.causal import from_hugging_face
from prompt_jax.backbones.causal.rope import rotations
from prompt_jax.generate import generate
from prompt_jax.weights import load_backbone

torch = pytest.importorskip("torch", reason="parity needs torch: pip install prompt-jax[parity]")
pytestmark = pytest.mark.parity

LLAMA = parity.LLAMA | {"head_dim": 6, "max_position_embeddings": 64}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "original_max_position_embeddings": 16}
NEOX = parity.BERT | {"eos_token_id": 1, "rope_parameters": {"partial_rotary_factor": 0.5}}
OPT = parity.BERT | {"ffn_dim": 24, "eos_token_id": 1, "bos_token_id": 1}
CONFIGS = {
    "gpt2": ("GPT2", parity.GPT2),
    "llama": ("Llama", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama3": ("Llama", LLAMA | {"rope_parameters": STRETCHED, "tie_word_embeddings": True}),
    "linear": (
        "Llama",
        LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0}},
    ),
    "mistral": ("Mistral", LLAMA | {"sliding_window": 4}),
    "qwen2": ("Qwen2", LLAMA),
    "yarn": (
        "Qwen2",
        LLAMA
        | {"rope_parameters": {**YARN, "factor": 4.0}, "max_window_layers": 1}
        | {"use_sliding_window": True, "sliding_window": 4},
    ),
    "olmo2": ("Olmo2", LLAMA),
    "smollm3": (
        "SmolLM3",
        LLAMA
        | {"num_hidden_layers": 3, "no_rope_layers": [1, 0, 1], "use_sliding_window": True}
        | {"sliding_window": 4, "pad_token_id": 0},
    ),
    "granite": (
        "Granite",
        LLAMA
        | {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.4}
        | {"logits_scaling": 4.0, "head_dim": 4},
    ),
    "gpt_neox": ("GPTNeoX", NEOX),
    "sequential": ("GPTNeoX", NEOX | {"use_parallel_residual": False, "attention_bias": False}),
    "opt": ("OPT", OPT),
    "post_norm": ("OPT", OPT | {"do_layer_norm_before": False, "enable_bias": False}),
    "phi3": (
        "Phi3",
        LLAMA
        | {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 50.0,
                "partial_rotary_factor": 0.75,
            }
        }
        | {"head_dim": 8, "sliding_window": 4},
    ),
    "longrope": (
        "Phi3",
        LLAMA
        | {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 50.0,
                "short_factor": [1.0, 1.5],
                "long_factor": [2.0, 9.0],
            }
        }
        | {"original_max_position_embeddings": 32, "num_key_value_heads": 4, "head_dim": 4},
    ),
    "gemma": ("Gemma", LLAMA | {"hidden_act": "gelu"}),
    "gemma2": ("Gemma2", parity.GEMMA),
    "gemma3": (
        "Gemma3Text",
        parity.GEMMA
        | {"num_hidden_layers": 3, "num_key_value_heads": 1, "sliding_window": 3}
        | {"sliding_window_pattern": 3}
        | {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 300.0},
            }
        },
    ),
    "qwen3": (
        "Qwen3",
        LLAMA
        | {"num_key_value_heads": 1, "use_sliding_window": True, "sliding_window": 3}
        | {"layer_types": ["sliding_attention", "full_attention"]},
    ),
}


# Learned positions, and rotated ones with windows in some layers: caches differ. With the slow
# tests one writes whose every layer has a window, and one whose rotations are stretched.
WRITES = ("gpt2", "qwen3")
# What others cover too: Gemma 3 has two rates, one of them linear, and norms as Gemma 1 and 2.
SLOW = ("linear", "gemma", "gemma2", "sequential", "post_norm")
# Llama but for a few fields, which logits tell: the rest is left to the slow tests.
FIELDS = (
    "olmo2",
    "smollm3",
    "granite",
    "gpt_neox",
    "sequential",
    "opt",
    "post_norm",
    "phi3",
    "longrope",
)


def slow_but(quick, names=CONFIGS):
    """The models, those that are not quick with the slow tests."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


most = pytest.mark.parametrize("both", slow_but(set(CONFIGS) - {*SLOW, *FIELDS}), indirect=True)


@pytest.fixture(scope="module", params=slow_but(set(CONFIGS) - {*SLOW}))
def both(request, tmp_path_factory):
    """The same model in torch and here, the latter from the former's folder."""
    model = torch_model(*CONFIGS[request.param], "ForCausalLM")
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, load_backbone(folder, scan=True)


def test_logits(both):
    model, backbone = both
    tokens, mask = texts()
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), attention_mask=torch.tensor(mask).long()).logits
    ours = apply(backbone, backbone.embed(tokens), jnp.asarray(mask))
    close(np.asarray(ours)[mask], theirs.numpy()[mask])


@most
def test_target_logits_wherever_padding_stands(both):
    """Of targets behind their input, from whole rows without padding."""
    model, backbone = both
    tokens, mask = texts()
    targets = texts((4, 4, 4), seed=1)[0].astype(np.int32)
    whole = []
    for row, seen, target in zip(tokens, mask, targets, strict=True):
        text = torch.tensor(np.concatenate([row[seen], target]))[None]
        with torch.no_grad():
            whole.append(model(text).logits[0, seen.sum() - 1 : -1].numpy())
    for given in ((tokens, mask), padded_left(tokens, mask)):
        embedded = backbone.embed(given[0])
        arguments = embedded, jnp.asarray(given[1]), jnp.asarray(targets)
        close(apply(backbone, *arguments, method="predict"), np.stack(whole))


@pytest.mark.parametrize(
    "options",
    [
        {"factor": 4.0},
        {"factor": 4.0, "truncate": False, "beta_fast": 8.0, "beta_slow": 2.0},
        {"factor": 8.0, "mscale": 0.7, "mscale_all_dim": 0.4, "rope_theta": 1e4},
        {"factor": 2.0, "attention_factor": 1.3, "beta_fast": 1e-3, "beta_slow": 1e-4},
        {"factor": None, "original_max_position_embeddings": 32},
    ],
)
def test_yarn_turns_as_theirs(options):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    values = LLAMA | {"head_dim": 16, "rope_parameters": {**YARN, **options}}
    rates, attention = ROPE_INIT_FUNCTIONS["yarn"](LlamaConfig(**copy.deepcopy(values)))
    rope = from_hugging_face({"model_type": "llama", **values}, tie_embeddings=True).rope
    assert rope.attention == pytest.approx(attention, abs=1e-12)
    cos, sin = rotations(rope, jnp.arange(40)[None], 16)[:, 0, :, :8]
    angles = np.arange(40)[:, None] * rates.numpy()[None, :]
    np.testing.assert_allclose(cos, attention * np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(sin, attention * np.sin(angles), atol=1e-5)


def test_a_mistral_with_layer_types_is_a_ministral(tmp_path):
    """So Transformers reads it, and only so can its layers differ."""
    from transformers import AutoModelForCausalLM, MinistralConfig, MinistralForCausalLM

    types = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3}
    torch.manual_seed(0)
    MinistralForCausalLM(MinistralConfig(**LLAMA, **types)).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"model_type": "mistral"}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    backbone = load_backbone(tmp_path)
    assert isinstance(model, MinistralForCausalLM) and backbone.config.full_layers == (0,)
    tokens, mask = texts()
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), attention_mask=torch.tensor(mask).long()).logits
    ours = apply(backbone, backbone.embed(tokens), jnp.asarray(mask))
    close(np.asarray(ours)[mask], theirs.numpy()[mask])


@pytest.mark.slow
def test_a_gemma_that_sees_lends_its_text_model(tmp_path):
    from safetensors.numpy import load_file, save_file
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {**parity.GEMMA, "final_logit_softcapping": None, "num_hidden_layers": 6}
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text, vision_config=parity.VISION, mm_tokens_per_image=4)
    model = parity.shaken(Gemma3ForConditionalGeneration(config).eval(), 0.2)
    model.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, scan=True)
    tokens, mask = texts()
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), attention_mask=torch.tensor(mask).long()).logits
    ours = apply(backbone, backbone.embed(tokens), jnp.asarray(mask))
    close(np.asarray(ours)[mask], theirs.numpy()[mask])
    # Other writers hang the text model one level higher.
    file = tmp_path / "model.safetensors"
    moved = {
        name.replace("language_model.model.", "model.language_model."): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(moved, file)
    assert load_backbone(tmp_path).fingerprint == backbone.fingerprint


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize(
    "both", slow_but(WRITES, (*WRITES, "mistral", "yarn", *FIELDS)), indirect=True
)
def test_generation_is_token_equal(both, beams):
    model, backbone = both
    tokens, mask = padded_left(*texts())
    options = {"max_new_tokens": 8, "num_beams": beams}
    with torch.no_grad():
        theirs = model.generate(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            **options,
        )[:, tokens.shape[1] :].numpy()
    # Their beams go on with the end behind an end, for a padding of 0 counts as none.
    ended = np.cumsum(theirs == 1, axis=1) - (theirs == 1) > 0
    theirs = np.where(ended, 0, theirs)
    ours = generate(backbone, None, tokens, mask, **options)
    np.testing.assert_array_equal(ours[:, : theirs.shape[1]], theirs)


@most
def test_back_to_a_folder(both, tmp_path):
    assert_round_trip(*both, tmp_path)
