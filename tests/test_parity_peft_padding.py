"""PEFT on decoders whose texts are padded on the left: its positions, and its layout of logits."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax.methods import init
from prompt_jax.prompts import export_peft, prompt_for
from prompt_jax.weights import load_backbone

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.parity,
    # PEFT asks Transformers by a name that Transformers has retired.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    # And says at every step that it drops the positions which Transformers has counted.
    pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter:UserWarning"),
]

P = 3
TOKENS = np.array([[5, 6, 7, 8, 9], [0, 0, 0, 10, 11]])
MASK = TOKENS > 0
ALONE = TOKENS[1:, 3:]
KINDS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **{"vocab_size": 61, "n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 40},
            **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1},
        )
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **{"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "eos_token_id": 1},
            **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
            **{"max_position_embeddings": 40, "pad_token_id": 0},
        )
    ),
}
METHODS = {
    "prompt": pj.PromptTuningConfig(num_virtual_tokens=P, task_type="CAUSAL_LM"),
    "prefix": pj.PrefixTuningConfig(num_virtual_tokens=P, task_type="CAUSAL_LM"),
}


@pytest.fixture(scope="module", params=["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def models(request, tmp_path_factory):
    """The frozen model in torch and here, and each method's prompt in PEFT and here."""
    torch.manual_seed(0)
    theirs = KINDS[request.param]().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    backbone = load_backbone(folder, dtype="float32", scan=True)
    found = {}
    for name, method in METHODS.items():
        tuned = init(method, backbone, jax.random.key(1))
        tuned = jax.tree.map(
            lambda v: v + 0.3 * jax.random.normal(jax.random.key(2), v.shape), tuned
        )
        prompt = prompt_for(tuned, method, backbone, name=name)
        exported = export_peft(folder / name, prompt)
        model = peft.PeftModel.from_pretrained(copy.deepcopy(theirs), str(exported)).eval()
        found[name] = model, prompt
    return backbone, found


def ours(models, name, count_padding):
    backbone, found = models
    config = dataclasses.replace(backbone.config, count_padding=count_padding)
    backbone = dataclasses.replace(backbone, config=config)
    return pj.PromptTuningModel.from_pretrained(backbone, found[name][1])


def called(model, tokens=TOKENS, **options):
    with torch.no_grad():
        mask = torch.tensor(tokens > 0).long()
        return model(input_ids=torch.tensor(tokens), attention_mask=mask, **options)


def written(model, tokens=TOKENS):
    with torch.no_grad():
        mask = torch.tensor(tokens > 0).long()
        options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False}
        found = model.generate(input_ids=torch.tensor(tokens), **options).numpy()
    found = found[:, tokens.shape[1] :]
    return np.pad(found, ((0, 0), (0, 8 - found.shape[1])))


def close(ours, theirs):
    theirs = theirs.numpy()
    return np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("name", METHODS)
def test_a_call_counts_padding_in_peft(models, name):
    model = models[1][name][0]
    theirs = called(model).logits[:, -5:]
    same = ours(models, name, True)(TOKENS, MASK).logits
    assert close(same[MASK], theirs[torch.tensor(MASK)])
    right = ours(models, name, False)(TOKENS, MASK).logits
    assert close(right[0], theirs[0]) and not close(right[1, 3:], theirs[1, 3:])
    assert close(right[1:, 3:], called(model, ALONE).logits[:, -2:])


def test_generation_counts_padding_behind_a_prompt(models):
    """And PEFT so gives a text another answer than it has alone."""
    model = models[1]["prompt"][0]
    theirs = written(model)
    same = ours(models, "prompt", True).generate(TOKENS, MASK, max_new_tokens=8)
    np.testing.assert_array_equal(same, theirs)
    alone = written(model, ALONE)
    right = ours(models, "prompt", False).generate(TOKENS, MASK, max_new_tokens=8)
    np.testing.assert_array_equal(right[1:], alone)
    assert (alone != theirs[1:]).any()


def test_generation_behind_a_prefix_is_ours(models):
    """PEFT counts the text alone there, as Transformers does."""
    found = ours(models, "prefix", False).generate(TOKENS, MASK, max_new_tokens=8)
    np.testing.assert_array_equal(found, written(models[1]["prefix"][0]))


def test_padding_on_the_right_is_all_the_same(models):
    tokens = np.array([[5, 6, 7, 8, 9], [10, 11, 0, 0, 0]])
    theirs = called(models[1]["prompt"][0], tokens).logits[:, P:]
    for count in (False, True):
        found = ours(models, "prompt", count)(tokens, tokens > 0).logits
        assert close(found[tokens > 0], theirs[torch.tensor(tokens > 0)])


def test_logits_of_virtual_tokens_and_the_loss_of_the_first(models):
    labels = np.where(MASK, TOKENS, -100)
    theirs = called(models[1]["prompt"][0], labels=torch.tensor(labels))
    found = ours(models, "prompt", True)(TOKENS, MASK, labels=labels, virtual_logits=True)
    assert found.logits.shape == theirs.logits.shape == (2, P + 5, 61)
    real = np.concatenate([np.ones((2, P), bool), MASK], axis=1)
    assert close(found.logits[real], theirs.logits[torch.tensor(real)])
    assert float(found.loss) == pytest.approx(float(theirs.loss), rel=1e-5)
    text = ours(models, "prompt", True)(TOKENS, MASK, labels=labels)
    np.testing.assert_array_equal(text.logits, found.logits[:, P:])
    assert float(text.loss) != pytest.approx(float(theirs.loss), rel=1e-3)
