"""PEFT's folders as other writers and other users of PEFT leave them."""

import dataclasses

import jax
import numpy as np
import pytest
from make_prompts import edited, trained

import prompt_jax as pj
from prompt_jax.config import InputError
from prompt_jax.methods import init, kernels
from prompt_jax.methods.kernels import targets
from prompt_jax.prompts import PeftFolder, export_peft, load_prompt, prompt_for, save_prompt
from prompt_jax.prompts import prompt as prompt_module

KINDS = ("SelfAttention.q", "SelfAttention.v")
WHOLE = [
    f"{stack}.block.{layer}.layer.0.{kind}"
    for stack, count in (("encoder", 2), ("decoder", 3))
    for layer in range(count)
    for kind in KINDS
]


def folder_of(prompt, folder, **changes):
    """A folder as PEFT saves it, without our own config."""
    export_peft(folder, prompt)
    (folder / "prompt_jax_config.json").unlink()
    return edited(folder, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "wanted"),
    [
        ("lora", {"lora_alpha": 8.0, "lora_dropout": 0, "r": 2.0}, {"lora_alpha": 8, "r": 2}),
        ("lora", {"lora_alpha": 0.5}, {"lora_alpha": 0.5}),
        ("lora", {"lora_alpha": None}, {"lora_alpha": 8}),
        ("multitask", {"num_tasks": 3.0, "num_ranks": 2.0, "num_virtual_tokens": 3.0}, {}),
        ("prefix", {"num_layers": 6.0, "num_attention_heads": 3.0, "token_dim": 24.0}, {}),
    ],
)
def test_numbers_are_read_however_json_writes_them(tiny, tmp_path, name, changes, wanted):
    prompt = trained(name, tiny)
    read = load_prompt(folder_of(prompt, tmp_path / "p", **changes), tiny)
    assert read.digest == prompt.digest
    assert {field: getattr(read.method, field) for field in wanted} == wanted
    assert all(type(getattr(read.method, field)) is type(wanted[field]) for field in wanted)
    assert type(read.num_layers) is int


@pytest.mark.parametrize("alpha", ["8", True, float("nan"), [8], 0])
def test_what_is_no_scale_is_refused(tiny, tmp_path, alpha):
    folder = folder_of(trained("lora", tiny), tmp_path / "p", lora_alpha=alpha)
    with pytest.raises(InputError, match="lora_alpha must be a number"):
        load_prompt(folder, tiny)


@pytest.mark.parametrize(
    ("listed", "excluded", "names"),
    [
        (WHOLE, None, tuple(sorted(WHOLE))),
        (r".*SelfAttention\.(q|v)", None, KINDS),  # "q" would mean those of cross-attention too.
        (["q", "v"], ["EncDecAttention.q", "EncDecAttention.v"], KINDS),
        (["q", "v", "wo"], r".*(EncDec|Dense).*", KINDS),
    ],
)
def test_names_of_some_kernels(tiny, tmp_path, listed, excluded, names):
    """Lists with layers, as PEFT makes of "all-linear"; patterns; names that mean more."""
    config = pj.LoraConfig(r=2, target_modules=KINDS)
    prompt = prompt_for(init(config, tiny, jax.random.key(0)), config, tiny)
    changes = {"target_modules": listed, "exclude_modules": excluded}
    read = load_prompt(folder_of(prompt, tmp_path / "p", **changes), tiny)
    assert read.digest == prompt.digest and read.method.target_modules == names
    again = load_prompt(export_peft(tmp_path / "again", read), tiny)
    assert again.digest == prompt.digest and again.method == read.method


def test_names_of_one_stack_need_their_layers(tiny, tmp_path):
    names = tuple(f"encoder.block.{layer}.layer.0.SelfAttention.q" for layer in range(2))
    assert set(targets(tiny, names)) == {"encoder/layers/attention/query"}
    config = pj.IA3Config(target_modules=names, feedforward_modules=names)
    prompt = prompt_for(init(config, tiny, jax.random.key(0)), config, tiny)
    folder = folder_of(prompt, tmp_path / "p", target_modules="encoder.*SelfAttention.q")
    read = load_prompt(folder, tiny)
    assert read.method == config and read.digest == prompt.digest


def test_a_folder_is_read_by_the_names_of_its_backbone_and_shaped_once(
    tiny, tiny_gpt2, tmp_path, monkeypatch
):
    prompt = trained("lora", tiny)
    folder = folder_of(prompt, tmp_path / "p")
    shaped, shapes = [], prompt_module.shapes
    monkeypatch.setattr(prompt_module, "shapes", lambda *a: shaped.append(a) or shapes(*a))
    kernels.kernels.cache_clear()
    model = pj.PromptTuningModel.from_pretrained(tiny, folder)
    assert kernels.kernels.cache_info().currsize == len(shaped) == 1
    jax.tree.map(np.testing.assert_array_equal, model.tuned, prompt.tuned)
    with pytest.raises(InputError, match="no tensor of a kernel that is known here, only .*Self"):
        load_prompt(folder, tiny_gpt2)


def test_a_folder_says_what_it_is_before_a_backbone_is_known(tiny, tmp_path):
    prompt = trained("lora", tiny)
    folder = load_prompt(folder_of(prompt, tmp_path / "p"))
    assert isinstance(folder, PeftFolder)
    assert repr(folder) == f"<PeftFolder 'p': LORA, {prompt.size:,} numbers, for 'tiny'>"
    assert folder.on(tiny).digest == prompt.digest != folder.digest


@pytest.mark.parametrize(
    "config",
    [
        pj.PromptTuningConfig(num_virtual_tokens=3),
        pj.PrefixTuningConfig(num_virtual_tokens=3),
        pj.LoraConfig(r=2),
        pj.IA3Config(),
    ],
    ids=lambda config: config.kind,
)
def test_a_task_that_is_not_stated_is_that_of_the_backbone(tiny_gpt2, tmp_path, config):
    """As PEFT saves an adapter by default."""
    prompt = prompt_for(init(config, tiny_gpt2, jax.random.key(0)), config, tiny_gpt2)
    folder = folder_of(prompt, tmp_path / "p", task_type=None)
    model = pj.PromptTuningModel.from_pretrained(tiny_gpt2, folder)
    jax.tree.map(np.testing.assert_array_equal, model.tuned, prompt.tuned)
    assert model.prompt.method.task_type == "CAUSAL_LM" and model.prompt.states_task
    # Whether it was saved again before its backbone was known or after.
    for name, read in (("loose", load_prompt(folder)), ("shaped", model.prompt)):
        again = load_prompt(save_prompt(tmp_path / name, read), tiny_gpt2)
        assert again.method.task_type == "CAUSAL_LM" and again.digest == prompt.digest
    assert '"task_type": "CAUSAL_LM"' in (tmp_path / "shaped" / "adapter_config.json").read_text()


def test_a_prompt_saved_before_its_backbone_was_known(tiny, tmp_path):
    """Earlier versions saved one with a config of ours, in shapes that were no backbone's."""
    prompt = trained("lora", tiny)
    folder = export_peft(tmp_path / "p", dataclasses.replace(prompt, num_attention_heads=None))
    assert load_prompt(folder, tiny).digest == prompt.digest
