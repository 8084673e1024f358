"""T5Gemma against Hugging Face's in torch and against PEFT, on tiny random weights."""

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
pytestmark = [*parity.MARKS, pytest.mark.slow]

ENCODER = parity.GEMMA | {"sliding_window": 2}
DECODER = parity.GEMMA | {"num_hidden_layers": 3, "num_key_value_heads": 1}
# The decoder of the second is wider than its encoder, and has a head of its own.
CONFIGS = {
    "tied": {"encoder": ENCODER, "decoder": DECODER},
    "wider": {
        "encoder": ENCODER,
        "decoder": DECODER | {"hidden_size": 24},
        "tie_word_embeddings": False,
    },
}


def torch_model(name):
    from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration

    torch.manual_seed(0)
    config = T5GemmaConfig(**CONFIGS[name], vocab_size=61)
    config._attn_implementation = "eager"
    return shaken(T5GemmaForConditionalGeneration(config).eval(), 0.2)


@pytest.fixture(scope="module", params=CONFIGS)
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


@pytest.mark.parametrize("padded", [lambda *text: text, padded_left], ids=["right", "left"])
def test_logits(both, padded):
    model, backbone = both
    tokens, mask = padded(*texts())
    arguments = backbone.embed(tokens), jnp.asarray(mask), jnp.asarray(decoder_inputs())
    close(apply(backbone, *arguments), torch_logits(model, tokens, mask, decoder_inputs()))


@pytest.mark.parametrize("beams", [1, 4])
def test_generation_is_token_equal(both, beams):
    model, backbone = both
    tokens, mask = texts()
    options = {"max_new_tokens": 8, "num_beams": beams}
    with torch.no_grad():
        written = model.generate(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            **options,
        )[:, 1:].numpy()
    ours = generate(backbone, None, tokens, mask, **options)
    np.testing.assert_array_equal(ours[:, : written.shape[1]], written)


def test_back_to_a_folder(both, tmp_path):
    assert_round_trip(*both, tmp_path)


METHODS = {
    "prompt": pj.PromptTuningConfig(num_virtual_tokens=3),
    "lora": pj.LoraConfig(r=2, target_modules=("q_proj", "v_proj")),
}


def close_to_peft(prompt, backbone, model):
    tokens, mask = texts()
    ours = pj.PromptTuningModel.from_pretrained(backbone, prompt)
    reference = torch_logits(model, tokens, mask, decoder_inputs())
    close(ours(tokens, mask, decoder_input_ids=decoder_inputs()).logits, reference)
    return reference


@pytest.mark.parametrize("name", METHODS)
def test_peft_loads_ours(both, tmp_path, name):
    model, backbone = both
    method = METHODS[name]
    tuned = testing.shaken(pj.init(method, backbone, jax.random.key(1)), 2)
    prompt = prompt_for(tuned, method, backbone, name=name)
    fresh = torch_model("tied" if backbone.config.tie_embeddings else "wider")
    loaded = load_in_peft(fresh, export_peft(tmp_path / "ours", prompt))
    reference = close_to_peft(prompt, backbone, loaded)
    plain = torch_logits(model, *texts(), decoder_inputs())
    assert difference(plain, reference) > 0.01


@pytest.mark.parametrize("name", METHODS)
def test_we_load_pefts(both, tmp_path, name):
    import peft

    model, backbone = both
    torch.manual_seed(1)
    task = {"task_type": "SEQ_2_SEQ_LM"}
    # PEFT looks for these in the config, and those of T5Gemma are one level deeper.
    sizes = {"num_layers": 2, "token_dim": backbone.width, "num_attention_heads": 4}
    config = {
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, **sizes, **task),
        "lora": lambda: peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **task),
    }[name]()
    fresh = torch_model("tied" if backbone.config.tie_embeddings else "wider")
    loaded = shaken(peft.get_peft_model(fresh, config).eval(), 0.3, trained_only=True)
    loaded.save_pretrained(tmp_path / "theirs")
    close_to_peft(load_prompt(tmp_path / "theirs", backbone), backbone, loaded)
