"""Which PEFT type a method is written as and read from, and what all types have in common.

A format is a module of three functions: `obstacle(method, arrays, model_type)`, why PEFT would run
this differently; `write(method, arrays, model_type)`, the config's own fields and the tensors;
`read(stored)`, the method, the arrays, and the type of model, "" where no tensor's name tells it.
Arrays are the leaves of a tuned tree by path, without those of a head, which are the same for all.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from prompt_jax import config as configs
from prompt_jax.config import MethodConfig, choose
from prompt_jax.config.method import TASK_TYPES
from prompt_jax.methods import CLASSIFIER
from prompt_jax.prompts.peft import heads, ia3, lora, modules, multitask, prefix, prompt
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
WHOLE = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")
"""Types whose files say all about the shapes of the tuned tree."""
BY_KERNEL = ("LORA", "IA3")
"""Types that put modules into the model, whose names all begin one word deeper."""


class Adapter(NamedTuple):
    """What an adapter folder holds, as fields of a `Prompt`; `arrays` become its tree."""

    method: MethodConfig
    arrays: dict[str, np.ndarray]
    backbone: str
    model_type: str
    num_layers: int | None
    num_attention_heads: int | None
    """None where the arrays are not in a backbone's shapes yet, see `peft_shapes`."""


def obstacle(prompt: Prompt) -> str:
    """Why PEFT would run this prompt differently, and what to do; empty when it would not."""
    if type(prompt.method) not in WRITTEN:
        return f"PEFT has no format for {prompt.method.kind}"
    method, kind = prompt.method, prompt.model_type
    own, head = prompt.own_arrays, heads.leaves_of(prompt)
    if method.task_type == "FEATURE_EXTRACTION" and WRITTEN[type(method)] in BY_KERNEL:
        return "PEFT has other names for the modules of a model without a head"
    reason = heads.obstacle(method.task_type, kind, head)
    if reason:
        return reason
    if method.task_type == "SEQ_CLS" and method.input_tokens and method.pooling != "peft":
        return (
            "PEFT's head reads the first position, a virtual token, and this one the text's own; "
            'train with pooling="peft"'
        )
    return _format(prompt).obstacle(method, own, kind)


def adapter_config(prompt: Prompt) -> dict[str, Any]:
    """The adapter_config.json of a prompt, every dimension filled in."""
    own, head = prompt.own_arrays, heads.leaves_of(prompt)
    fields, _ = _format(prompt).write(prompt.method, own, prompt.model_type)
    common = {
        "auto_mapping": None,
        "base_model_name_or_path": prompt.backbone or None,
        "inference_mode": True,
        "modules_to_save": heads.modules_to_save(prompt.method.task_type, head),
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
    method, kind = prompt.method, prompt.model_type
    own, head = prompt.own_arrays, heads.leaves_of(prompt)
    _, tensors = _format(prompt).write(method, own, kind)
    root = modules.ROOT if WRITTEN[type(method)] in BY_KERNEL else "base_model."
    return tensors | heads.write(method.task_type, kind, head, root) if head else tensors


def read_adapter(stored: Stored) -> Adapter:
    """The meaning of an adapter folder; unknown keys of its config are passed over, as PEFT does.

    Raises:
      InputError: another adapter type or task, tensors that are missing or too many, numbers that
        do not fit them, or an option that the method does not have here.
    """
    kind = stored.values.get("peft_type")
    choose(f"peft_type in {stored.config}", kind, PEFT_TYPES)
    choose(f"task_type in {stored.config}", stored.task_type, TASK_TYPES)
    stored, head = heads.take(stored)
    method, arrays, model_type = PEFT_TYPES[str(kind)].read(stored)
    beside = {}
    if head:
        classes = head[f"{CLASSIFIER}/out/kernel"].shape[1]
        beside = {"num_labels": classes, "pooling": "peft"}
    method = dataclasses.replace(method, task_type=stored.task_type, **beside)
    name = stored.values.get("base_model_name_or_path") or ""
    sizes = ("num_layers", "num_attention_heads")
    stated = [kind in WHOLE and stored.values.get(size) is not None for size in sizes]
    layers, count = (
        stored.whole(size) if is_stated else None
        for size, is_stated in zip(sizes, stated, strict=True)
    )
    return Adapter(method, arrays | head, name, model_type, layers, count)


def _format(prompt: Prompt) -> Any:
    return PEFT_TYPES[WRITTEN[type(prompt.method)]]
