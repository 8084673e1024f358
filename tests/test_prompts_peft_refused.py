"""What of PEFT's folders is not read, and which methods are not written as one."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from make_prompts import ADAPTER, DEEPER, OURS, WEIGHTS, P, edited, tensors, trained

import prompt_jax as pj
from prompt_jax.backbones import Backbone, init_params
from prompt_jax.backbones.t5 import from_hugging_face
from prompt_jax.config import InputError
from prompt_jax.methods import init
from prompt_jax.prompts import export_peft, load_prompt, prompt_for, save_prompt


@pytest.fixture(scope="module")
def backbone():
    config = from_hugging_face(DEEPER, tie_embeddings=False)
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    return Backbone(name="t5", config=config, params=params)


Q = "base_model.model.encoder.block.0.layer.0.SelfAttention.q"
READING = {
    "one tensor missing": ("lora", {"drop": [f"{Q}.lora_B.weight"]}, f"lacks {Q}.lora_B.weight;"),
    "a layer missing": (
        "ia3_out",
        {"drop": ["base_model.model.decoder.block.1.layer.1.EncDecAttention.k.ia3_l"]},
        "tunes only some layers: not decoder.block.1.layer.1.EncDecAttention.k; layers are tuned",
    ),
    "a surplus tensor": (
        "lora",
        {"add": {"base_model.model.classifier.weight": np.ones((2, 2), np.float32)}},
        "tunes classifier, and only kernels in the layers .* name them in exclude_modules, and not",
    ),
    "norms": (
        "ia3",
        {"add": {Q.replace("SelfAttention.q", "layer_norm.weight"): np.ones(12, np.float32)}},
        "tunes encoder.block.0.layer.0.layer_norm, and only kernels",
    ),
    "the last layers missing": (
        "lora",
        {"drop": lambda name: re.search(r"block\.[12]", name)},
        "tunes 1 of . layers of .*; layers are tuned together here",
    ),
    "a layer by its number": (
        "lora",
        {"layers_to_transform": 0},
        "has layers_to_transform 0, which is not supported here",
    ),
    "another model": (
        "ia3",
        {"drop": bool, "add": {"base_model.model.h.0.c_attn.ia3_l": np.ones((3, 1), np.float32)}},
        "no tensor of a kernel that is known here, only base_model.model.h.0.c_attn.ia3_l; allowed",
    ),
    "magnitudes unasked": ("dora", {"use_dora": False}, "holds .*lora_magnitude_vector, which"),
    "another rank": (
        "lora",
        {"r": 3},
        r"r is 3 and the factors of .* \[2, 10\], .* B is \[out, 3\]",
    ),
    "a rank of no number": ("lora", {"r": "2"}, "r must be a whole number of at least 1, got '2'"),
    "rank_pattern": ("lora", {"rank_pattern": {"q": 4}}, "rank_pattern {'q': 4}, which is not"),
    "pissa": ("lora", {"init_lora_weights": "pissa"}, "'pissa', which changes the frozen weights"),
    "targets": ("lora", {"target_modules": ["q", "k"]}, "name k without a tensor and there are"),
    "prefix in one stack": ("prefix", {"num_transformer_submodules": 1}, "no prefix on T5; allow"),
    "prefix size": ("prefix", {"num_layers": 5}, r"make a tensor \[3, 100\], and .* is \[3, 120\]"),
    "prompts in both stacks": (
        "multitask",
        {"num_transformer_submodules": 2},
        "half of its prompts stand in the decoder's input",
    ),
    "tasks": ("multitask", {"num_tasks": 2}, r"prefix_task_cols is \[3, 3, 2\] and num_tasks 2"),
    "a task part": ("multitask", {"drop": ["prefix_task_rows"]}, "lacks prefix_task_rows"),
}


@pytest.mark.parametrize("why", READING)
def test_reading_is_refused(backbone, tmp_path, why):
    name, changes, match = READING[why]
    folder = save_prompt(tmp_path / "p", trained(name, backbone))
    (folder / "prompt_jax_config.json").unlink()
    changes = dict(changes)
    if callable(drop := changes.get("drop")):
        changes["drop"] = [name for name in tensors(folder) if drop(name)]
    edited(folder, **changes)
    with pytest.raises(InputError, match=match):
        load_prompt(folder, backbone)


REFUSED = {
    "encoder and cross prefixes": (
        pj.PrefixTuningConfig(num_virtual_tokens=P),
        "decoder's self-attention alone and this one has encoder=True and cross=True; train with",
    ),
    "P-tuning v2": (pj.PTuningV2Config(num_virtual_tokens=P), "this one has encoder=True; train"),
    "a decoder prompt": (
        pj.PromptTuningConfig(num_virtual_tokens=P, stack="both"),
        'encoder\'s prompt only and this one is of "both"; train with stack="encoder"',
    ),
    "placement": (
        pj.PromptTuningConfig(num_virtual_tokens=P, placement="suffix"),
        'at the front and this one is "suffix"; train with placement="prefix"; or keep the folder',
    ),
    "placement of tasks": (
        pj.MultitaskPromptConfig(num_virtual_tokens=P, num_tasks=2, placement="after_bos"),
        'this one is "after_bos"',
    ),
    "combination": (
        pj.MultitaskPromptConfig(num_virtual_tokens=P, num_tasks=2, combine="add"),
        'this one has "add"; train with combine="multiply", or save the prompt of each task',
    ),
    "names that end in others": (
        pj.IA3Config(target_modules=("o", "wo"), feedforward_modules=("o",)),
        "PEFT would scale decoder.*DenseReluDense.wo at its input, as its name ends in 'o'",
    ),
    "adapter": (pj.AdapterConfig(bottleneck_size=2), "no format for adapter; or keep the folder"),
    "deep": (pj.DeepPromptConfig(num_virtual_tokens=P), "no format for deep_prompt"),
    "decomposed": (pj.DecomposedPromptConfig(num_virtual_tokens=P), "for decomposed_prompt"),
    "prompt adapter": (pj.PromptAdapterConfig(num_virtual_tokens=P), "for prompt_adapter"),
    "bias": (pj.BiasConfig(), "no format for bias"),
    "norm": (pj.NormConfig(), "no format for norm"),
    "full": (pj.FullConfig(), "no format for full"),
    "union": (pj.UnionConfig(methods=(pj.LoraConfig(), pj.IA3Config())), "no format for union"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_export_is_refused_and_our_own_folder_is_kept_from_peft(backbone, tmp_path, why):
    config, match = REFUSED[why]
    prompt = prompt_for(init(config, backbone, jax.random.key(0)), config, backbone)
    with pytest.raises(InputError, match=match):
        export_peft(tmp_path / "p", prompt)
    assert not list(tmp_path.iterdir())
    folder = save_prompt(tmp_path / "p", prompt)
    assert not (folder / ADAPTER).exists() and not (folder / WEIGHTS).exists()
    assert load_prompt(folder).digest == prompt.digest
    assert "does not load in PEFT" in (folder / "README.md").read_text()


def test_a_projection_that_is_not_computed_yet(backbone, tmp_path):
    config = OURS["prefix_mlp"]
    tuned = init(config, backbone, jax.random.key(0))
    plain = trained("prefix_mlp", backbone)
    raw = dataclasses.replace(plain, tuned=tuned, method=config, training=None, trained_as=None)
    with pytest.raises(InputError, match="not computed yet; make the prompt with prompt_for"):
        export_peft(tmp_path / "p", raw)
