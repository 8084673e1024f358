"""T5Gemma and BART against Hugging Face's in torch and against PEFT, on tiny random weights."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from parity import (
    apply,
    assert_round_trip,
    close,
    difference,
    load_in_peft,
    padded_left,
    shaken,
    texts,
)

import prompt_jax as pj
from prompt_jax import testing
from prompt_jax.generate import generate
from prompt_jax.prompts import export_peft, load_prompt, prompt_for
from prompt_jax.weights import load_backbone

torch = pytest.importorskip("torch", reason="parity needs torch: pip install prompt-jax[parity]")
pytestmark = parity.MARKS

ENCODER = parity.GEMMA | {"sliding_window": 2}
DECODER = parity.GEMMA | {"num_hidden_layers": 3, "num_key_value_heads": 1}
NEAR, FAR = "sliding_attention", "full_attention"
ROPES = {
    NEAR: {"rope_type": "default", "rope_theta": 100.0},
    FAR: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4},
}
# An even window of an encoder reaches further ahead than behind.
TEXT = parity.GEMMA | {"layer_types": [NEAR, FAR], "rope_parameters": ROPES}
SEEING = {
    "encoder": {
        "text_config": TEXT, "vision_config": parity.VISION, "mm_tokens_per_image": 4
    },
    "decoder": DECODER | {
        "sliding_window": 3, "layer_types": [NEAR, FAR, NEAR], "rope_parameters": ROPES
    },
}  # fmt: skip
BART = {
    **{"d_model": 16, "max_position_embeddings": 40, "pad_token_id": 0, "eos_token_id": 1},
    **{"encoder_layers": 2, "encoder_ffn_dim": 24, "encoder_attention_heads": 4},
    **{"decoder_layers": 3, "decoder_ffn_dim": 20, "decoder_attention_heads": 2},
    **{"decoder_start_token_id": 1, "forced_eos_token_id": 1},
}
CONFIGS = {
    "t5gemma": ("T5Gemma", {"encoder": ENCODER, "decoder": DECODER}),
    # The decoder is wider than the encoder, and has a head of its own.
    "t5gemma_wider": (
        "T5Gemma",
        {
            "encoder": ENCODER,
            "decoder": DECODER | {"hidden_size": 24},
            "tie_word_embeddings": False,
        },
    ),
    "t5gemma2": ("T5Gemma2", SEEING),
    # Three tables, and a window that is odd.
    "t5gemma2_untied": (
        "T5Gemma2",
        {
            "encoder": SEEING["encoder"] | {"text_config": TEXT | {"sliding_window": 3}},
            "decoder": SEEING["decoder"],
            "tie_word_embeddings": False,
        },
    ),
    "bart": ("Bart", BART),
    "bart_scaled": ("Bart", BART | {"scale_embedding": True, "forced_eos_token_id": None}),
}
QUICK = ("bart",)


def torch_model(name):
    kind, values = CONFIGS[name]
    model = parity.torch_model(kind, values, "ForConditionalGeneration", vocab_size=61)
    if kind == "Bart":  # Zeros would test nothing.
        model.final_logits_bias.normal_(std=0.3)
    if name == "bart":
        model.generation_config.forced_bos_token_id = 2
    return model


@pytest.fixture(
    scope="module",
    params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS],
)
def both(request, tmp_path_factory):
    """The same model in torch and here, the latter from the former's folder."""
    model = torch_model(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, load_backbone(folder, scan=True)


def torch_logits(model, tokens, mask, decoder_tokens):
    options = {"attention_mask": torch.tensor(mask).long()}
    options["decoder_input_ids"] = torch.tensor(decoder_tokens)
    with torch.no_grad():
        return model(input_ids=torch.tensor(tokens), **options).logits.numpy()


def decoder_inputs():
    tokens = texts((6, 6, 6), seed=3)[0]
    tokens[:, 0] = 2
    return tokens


@pytest.mark.parametrize(
    "padded", [lambda *text: text, pytest.param(padded_left, marks=pytest.mark.slow)]
)
def test_logits(both, padded):
    """Padding on the left changes nothing; in Transformers it would move a BART's positions."""
    model, backbone = both
    tokens, mask = padded(*texts())
    arguments = backbone.embed(tokens), jnp.asarray(mask), jnp.asarray(decoder_inputs())
    close(apply(backbone, *arguments), torch_logits(model, *texts(), decoder_inputs()))


@pytest.mark.slow
def test_the_loss_of_labels(both):
    """Labels have what an answer is forced to begin with, as a tokenizer gives it."""
    model, backbone = both
    tokens, mask = texts()
    labels = np.where(texts((6, 4, 2), seed=3)[1], decoder_inputs(), -100)
    ours = pj.PromptTuningModel.from_pretrained(backbone, None)
    inputs = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask).long()}
    with torch.no_grad():
        reference = model(**inputs, labels=torch.tensor(labels)).loss
    np.testing.assert_allclose(ours(tokens, mask, labels=labels).loss, reference, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 4])
def test_generation_is_token_equal(both, beams):
    model, backbone = both
    tokens, mask = texts()
    start = len(backbone.config.start_tokens)
    # A word twice is all that a tied model would say.
    options = {"max_length": 8 + start, "num_beams": beams, "no_repeat_ngram_size": 2}
    with torch.no_grad():
        written = model.generate(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            **options,
        )[:, start:].numpy()
    # Transformers fills up beams with the end.
    ended = np.cumsum(written == 1, axis=1) - (written == 1) > 0
    ours = generate(backbone, None, tokens, mask, **options)
    assert start == 1 + (backbone.model_type == "bart" and backbone.config.final_token_id == 1)
    np.testing.assert_array_equal(ours[:, : written.shape[1]], np.where(ended, 0, written))
    assert len(np.unique(written)) > 5


def test_back_to_a_folder(both, tmp_path):
    """Transformers' files have no name for the text model of a T5Gemma 2, and ours do."""
    assert_round_trip(*both, tmp_path)


@pytest.mark.slow
def test_a_bart_without_its_head(tmp_path):
    """The table is the head of published ones too, whose weights lack their root."""
    model = torch_model("bart")
    model.model.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, scan=True)
    assert backbone.config.word_head and not backbone.config.logit_bias
    tokens, mask = texts()
    arguments = backbone.embed(tokens), jnp.asarray(mask), jnp.asarray(decoder_inputs())
    model.final_logits_bias.zero_()
    close(apply(backbone, *arguments), torch_logits(model, tokens, mask, decoder_inputs()))


METHODS = {
    "prompt": pj.PromptTuningConfig(num_virtual_tokens=3),
    "prefix": pj.PrefixTuningConfig(num_virtual_tokens=3, encoder=False, cross=False),
    "lora": pj.LoraConfig(r=2),
    "ia3": pj.IA3Config(),
}
# PEFT has no defaults for T5Gemma, and reads the sizes of a prefix where it has none.
with_peft = pytest.mark.parametrize(
    ("both", "name"),
    [
        *[pytest.param("t5gemma", name, marks=pytest.mark.slow) for name in ("prompt", "lora")],
        *[pytest.param("t5gemma_wider", n, marks=pytest.mark.slow) for n in ("prompt", "lora")],
        *[pytest.param("t5gemma2", name, marks=pytest.mark.slow) for name in ("prompt", "lora")],
        *[pytest.param("bart_scaled", name, marks=pytest.mark.slow) for name in METHODS],
    ],
    indirect=["both"],
)


def close_to_peft(prompt, backbone, model):
    tokens, mask = texts()
    ours = pj.PromptTuningModel.from_pretrained(backbone, prompt)
    reference = torch_logits(model, tokens, mask, decoder_inputs())
    close(ours(tokens, mask, decoder_input_ids=decoder_inputs()).logits, reference)
    return reference


@with_peft
def test_peft_loads_ours(both, tmp_path, name):
    model, backbone = both
    method = METHODS[name]
    tuned = testing.shaken(pj.init(method, backbone, jax.random.key(1)), 2)
    prompt = prompt_for(tuned, method, backbone, name=name)
    loaded = load_in_peft(copy.deepcopy(model), export_peft(tmp_path / "ours", prompt))
    reference = close_to_peft(prompt, backbone, loaded)
    plain = torch_logits(model, *texts(), decoder_inputs())
    assert difference(plain, reference) > 0.01


@with_peft
def test_we_load_pefts(both, tmp_path, name):
    import peft

    model, backbone = both
    torch.manual_seed(1)
    task, sizes, modules, tower = {"task_type": "SEQ_2_SEQ_LM"}, {}, None, None
    if backbone.model_type.startswith("t5gemma"):
        # PEFT looks for these in the config, and those of T5Gemma are one level deeper.
        sizes = {"num_layers": 2, "token_dim": backbone.width, "num_attention_heads": 4}
        modules = ["q_proj", "v_proj"]
    if backbone.model_type == "t5gemma2":
        tower = r".*vision_tower.*"
    config = {
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, **sizes, **task),
        # PEFT would take those of the encoder.
        "prefix": lambda: peft.PrefixTuningConfig(
            num_virtual_tokens=3, num_layers=3, num_attention_heads=2, **task
        ),
        "lora": lambda: peft.LoraConfig(r=2, target_modules=modules, exclude_modules=tower, **task),
        "ia3": lambda: peft.IA3Config(**task),
    }[name]()
    fresh = peft.get_peft_model(copy.deepcopy(model), config).eval()
    loaded = shaken(fresh, 0.3, trained_only=True)
    loaded.save_pretrained(tmp_path / "theirs")
    close_to_peft(load_prompt(tmp_path / "theirs", backbone), backbone, loaded)
