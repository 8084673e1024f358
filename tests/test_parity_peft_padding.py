"""PEFT on decoders whose texts are padded on the left: its positions, and its layout of logits."""

import copy
import dataclasses

import jax
import numpy as np
import pytest
from parity import GPT2, LLAMA, MARKS, difference, load_in_peft, padded_to, torch_model

import prompt_jax as pj
from prompt_jax import testing
from prompt_jax.methods import init
from prompt_jax.prompts import export_peft, prompt_for
from prompt_jax.weights import load_backbone

pytest.importorskip("peft")
torch = pytest.importorskip("torch")
pytestmark = [
    *MARKS,
    # And says at every step that it drops the positions which Transformers has counted.
    pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter:UserWarning"),
]

P = 3
TOKENS = np.array([[5, 6, 7, 8, 9], [0, 0, 0, 10, 11]])
MASK = TOKENS > 0
ALONE = TOKENS[1:, 3:]
KINDS = {"gpt2": ("GPT2", GPT2), "llama": ("Llama", LLAMA)}
METHODS = {
    "prompt": pj.PromptTuningConfig(num_virtual_tokens=P, task_type="CAUSAL_LM"),
    "prefix": pj.PrefixTuningConfig(num_virtual_tokens=P, task_type="CAUSAL_LM"),
}


@pytest.fixture(scope="module", params=["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def models(request, tmp_path_factory):
    """The frozen model in torch and here, and each method's prompt in PEFT and here."""
    theirs = torch_model(*KINDS[request.param], "ForCausalLM")
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    backbone = load_backbone(folder, dtype="float32", scan=True)
    found = {}
    for name, method in METHODS.items():
        tuned = testing.shaken(init(method, backbone, jax.random.key(1)), 2)
        prompt = prompt_for(tuned, method, backbone, name=name)
        exported = export_peft(folder / name, prompt)
        found[name] = load_in_peft(copy.deepcopy(theirs), exported), prompt
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
    return padded_to(found[:, tokens.shape[1] :], 8)


def same(ours, theirs):
    return difference(ours, theirs) < 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_a_call_counts_padding_in_peft(models, name):
    model = models[1][name][0]
    theirs = called(model).logits[:, -5:]
    counted = ours(models, name, True)(TOKENS, MASK).logits
    assert same(counted[MASK], theirs[torch.tensor(MASK)])
    right = ours(models, name, False)(TOKENS, MASK).logits
    assert same(right[0], theirs[0]) and not same(right[1, 3:], theirs[1, 3:])
    assert same(right[1:, 3:], called(model, ALONE).logits[:, -2:])


def test_generation_counts_padding_behind_a_prompt(models):
    """And PEFT so gives a text another answer than it has alone."""
    model = models[1]["prompt"][0]
    theirs = written(model)
    counted = ours(models, "prompt", True).generate(TOKENS, MASK, max_new_tokens=8)
    np.testing.assert_array_equal(counted, theirs)
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
        assert same(found[tokens > 0], theirs[torch.tensor(tokens > 0)])


def test_logits_of_virtual_tokens_and_the_loss_of_the_first(models):
    labels = np.where(MASK, TOKENS, -100)
    theirs = called(models[1]["prompt"][0], labels=torch.tensor(labels))
    found = ours(models, "prompt", True)(TOKENS, MASK, labels=labels, virtual_logits=True)
    assert found.logits.shape == theirs.logits.shape == (2, P + 5, 61)
    real = np.concatenate([np.ones((2, P), bool), MASK], axis=1)
    assert same(found.logits[real], theirs.logits[torch.tensor(real)])
    assert float(found.loss) == pytest.approx(float(theirs.loss), rel=1e-5)
    text = ours(models, "prompt", True)(TOKENS, MASK, labels=labels)
    np.testing.assert_array_equal(text.logits, found.logits[:, P:])
    assert float(text.loss) != pytest.approx(float(theirs.loss), rel=1e-3)
