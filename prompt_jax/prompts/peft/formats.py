"""Which PEFT type a method is written as and read from, and what all types have in common.

A format is a module of three functions: `obstacle(method, arrays)`, why PEFT would run this
differently; `write(method, arrays)`, the config's own fields and the tensors; `read(stored)`, the
method and the arrays. Arrays are the leaves of a tuned tree by path.
"""

from typing import Any, NamedTuple

import numpy as np

from prompt_jax import config as configs
from prompt_jax.config import MethodConfig, choose
from prompt_jax.prompts.peft import ia3, lora, multitask, prefix, prompt
from prompt_jax.prompts.peft.files import Stored
from prompt_jax.prompts.prompt import Prompt

# The version whose loader these folders were checked against; written so that readers can tell.
PEFT_VERSION = "0.21.2"

PEFT_TYPES: dict[str, Any] = {
    "PROMPT_TUNING": prompt,
    "P_TUNING": prompt,
    "PREFIX_TUNING": prefix,
    "MULTITASK_PROMPT_TUNING": multitask,
    "LORA": lora,
    "IA3": ia3,
}
"""The formats that are read, by what PEFT calls them."""
WRITTEN: dict[type[MethodConfig], str] = {
    configs.PromptTuningConfig: "PROMPT_TUNING",
    configs.PrefixTuningConfig: "PREFIX_TUNING",
    configs.PTuningV2Config: "PREFIX_TUNING",
    configs.MultitaskPromptConfig: "MULTITASK_PROMPT_TUNING",
    configs.LoraConfig: "LORA",
    configs.IA3Config: "IA3",
}
"""What a method is written as; P-tuning has become prompt tuning by then."""
TASK_TYPES = ("SEQ_2_SEQ_LM", "CAUSAL_LM")
WHOLE = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")
"""Types whose files say all about the shapes of the tuned tree."""
IN_LAYERS = ("PREFIX_TUNING", "LORA", "IA3")
"""Types whose tensors are named, or laid out, by the family of the backbone."""


class Adapter(NamedTuple):
    """What an adapter folder holds, as fields of a `Prompt`; `arrays` become its tree."""

    method: MethodConfig
    arrays: dict[str, np.ndarray]
    backbone: str
    num_layers: int | None
    num_attention_heads: int | None
    """None where the arrays are not in a backbone's shapes yet, see `peft_shapes`."""


def obstacle(prompt: Prompt) -> str:
    """Why PEFT would run this prompt differently, and what to do; empty when it would not."""
    if type(prompt.method) not in WRITTEN:
        return f"PEFT has no format for {prompt.method.kind}"
    if prompt.method.task_type not in TASK_TYPES:
        return f"PEFT wants a trained head beside a {prompt.method.task_type} prompt"
    if prompt.method.task_type == "CAUSAL_LM" and WRITTEN[type(prompt.method)] in IN_LAYERS:
        return f"{prompt.method.kind} of a decoder-only model is not written as PEFT has it yet"
    return _format(prompt).obstacle(prompt.method, prompt.arrays)


def adapter_config(prompt: Prompt) -> dict[str, Any]:
    """The adapter_config.json of a prompt, every dimension filled in."""
    fields, _ = _format(prompt).write(prompt.method, prompt.arrays)
    common = {
        "auto_mapping": None,
        "base_model_name_or_path": prompt.backbone or None,
        "inference_mode": True,
        "modules_to_save": None,
        "peft_type": WRITTEN[type(prompt.method)],
        "peft_version": PEFT_VERSION,
        "revision": None,
        "task_type": prompt.method.task_type,
    }
    if "num_virtual_tokens" in fields:
        common["num_attention_heads"] = prompt.num_attention_heads
        common["num_layers"] = prompt.num_layers
    return common | fields


def weights(prompt: Prompt) -> dict[str, np.ndarray]:
    """The tensors of adapter_model.safetensors, as PEFT names them."""
    return _format(prompt).write(prompt.method, prompt.arrays)[1]


def read_adapter(stored: Stored) -> Adapter:
    """The meaning of an adapter folder; unknown keys of its config are passed over, as PEFT does.

    Raises:
      InputError: another adapter type or task, tensors that are missing or too many, numbers that
        do not fit them, or an option that the method does not have here.
    """
    kind = stored.values.get("peft_type")
    choose(f"peft_type in {stored.config}", kind, PEFT_TYPES)
    choose(f"task_type in {stored.config}", stored.task_type, TASK_TYPES)
    method, arrays = PEFT_TYPES[str(kind)].read(stored)
    name = stored.values.get("base_model_name_or_path") or ""
    sizes = ("num_layers", "num_attention_heads")
    layers, heads = (stored.values.get(size) if kind in WHOLE else None for size in sizes)
    return Adapter(method, arrays, name, layers, heads)


def _format(prompt: Prompt) -> Any:
    return PEFT_TYPES[WRITTEN[type(prompt.method)]]
