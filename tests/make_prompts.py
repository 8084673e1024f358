"""Prompts of the methods that PEFT has too, on a T5, and their folders with something changed."""

import json

import jax
import safetensors.numpy
from make_golden_peft import CONFIG

import prompt_jax as pj
from prompt_jax.methods import init
from prompt_jax.prompts import prompt_for

WEIGHTS, ADAPTER = "adapter_model.safetensors", "adapter_config.json"
P, TASKS = 3, 3
DEEPER = {**CONFIG, "num_decoder_layers": 3}
EVERYWHERE = ("q", "v", "o", "wi_0", "wo")
OURS = {
    "lora": pj.LoraConfig(r=2, lora_alpha=3, target_modules=EVERYWHERE),
    "rslora": pj.LoraConfig(r=4, use_rslora=True, lora_dropout=0.1),
    "dora": pj.LoraConfig(r=2, use_dora=True, target_modules=("q", "SelfAttention.o")),
    "ia3": pj.IA3Config(),
    "ia3_out": pj.IA3Config(target_modules=("k", "SelfAttention.o"), feedforward_modules=()),
    "prefix": pj.PrefixTuningConfig(num_virtual_tokens=P, encoder=False, cross=False),
    "prefix_mlp": pj.PrefixTuningConfig(
        num_virtual_tokens=P,
        encoder=False,
        cross=False,
        prefix_projection=True,
        encoder_hidden_size=8,
    ),
    "multitask": pj.MultitaskPromptConfig(
        num_virtual_tokens=P, num_tasks=TASKS, num_ranks=2, init="random", init_scale=2.0
    ),
}
_prompts = {}


def trained(name, backbone):
    """A prompt that has left its start, so that each of its numbers matters."""
    if (name, backbone.name) not in _prompts:
        config = OURS[name]
        tuned = init(config, backbone, jax.random.key(1))
        keys = iter(jax.random.split(jax.random.key(2), 1000))
        scale = 1.0 if name.startswith("prefix") else 0.3
        tuned = jax.tree.map(lambda v: v + scale * jax.random.normal(next(keys), v.shape), tuned)
        _prompts[name, backbone.name] = prompt_for(tuned, config, backbone, name=name)
    return _prompts[name, backbone.name]


def tensors(folder):
    return safetensors.numpy.load_file(folder / WEIGHTS)


def edited(folder, drop=(), add=(), **values):
    """The folder with other values in its config, and tensors fewer or more."""
    config = json.loads((folder / ADAPTER).read_text()) | values
    (folder / ADAPTER).write_text(json.dumps(config))
    kept = {name: t for name, t in tensors(folder).items() if name not in drop}
    safetensors.numpy.save_file(kept | dict(add), folder / WEIGHTS)
    return folder
