"""PEFT's adapter folder and back: what all formats share; each method has its own beside it."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from prompt_jax.backbones import BACKBONES, Backbone
from prompt_jax.config import InputError, choose
from prompt_jax.config.method import TASK_TYPES, WITH_HEAD
from prompt_jax.methods.classifier import CLASSIFIER
from prompt_jax.methods.kernels import ROOT
from prompt_jax.methods.method import (
    AGAIN,
    Leaves,
    PeftFormat,
    Shapes,
    Stored,
    method_of,
    peft_formats,
)
from prompt_jax.prompts.prompt import Prompt, check_shapes, from_paths, shapes_on
from prompt_jax.weights.pickle import open_pickle
from prompt_jax.weights.safetensors import open_safetensors
from prompt_jax.weights.stored import read_json, unwrapped

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"
# The version whose loader these folders were checked against; written so that readers can tell.
PEFT_VERSION = "0.21.2"
LAYERS = {
    "classifier": "out",
    "score": "out",
    "qa_outputs": "out",
    "classifier.out_proj": "out",
    "classifier.dense": "hidden",
    "pre_classifier": "hidden",
}
"""What Hugging Face calls the layers of heads, in all families."""
LEAVES = {"weight": "kernel", "bias": "bias"}


@dataclasses.dataclass(frozen=True, eq=False)
class PeftFolder:
    """An adapter that PEFT saved, which is a prompt once it is on a backbone.

    Its files tell neither what the family calls the kernels nor how many heads their outputs
    belong to, so there is no tuned tree before that. Where they tell all, as of prompt tuning,
    reading gives a `Prompt` at once.
    """

    stored: Stored
    """The two files; of a task that has a head, with the tensors of that."""
    name: str = ""

    def __post_init__(self):
        choose(f"peft_type in {self.stored.config}", self.peft_type, peft_formats())
        if self.stored.task_type:
            choose(f"task_type in {self.stored.config}", self.stored.task_type, TASK_TYPES)
        if self.stored.task_type in WITH_HEAD:
            # Only to refuse a folder without its head at once; `read_adapter` takes the head again.
            _take_head(self.stored)

    def __repr__(self) -> str:
        name, on = (f" {word!r}" if word else "" for word in (self.name, self.backbone))
        numbers = f"{self.peft_type}, {self.size:,} numbers"
        return f"<PeftFolder{name}: {numbers}{', for' if on else ''}{on}>"

    @property
    def peft_type(self) -> str:
        """What PEFT calls the method."""
        return str(self.stored.values.get("peft_type"))

    @property
    def format(self) -> PeftFormat:
        """How its method is read."""
        return peft_formats()[self.peft_type]

    @property
    def backbone(self) -> str:
        """Name of the backbone that it was trained on, as far as PEFT knew."""
        return self.stored.values.get("base_model_name_or_path") or ""

    @property
    def size(self) -> int:
        """How many numbers it is."""
        return sum(tensor.size for tensor in self.stored.tensors.values())

    @property
    def digest(self) -> str:
        """sha256 of the tensors; not that of the prompt which they become."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.stored.tensors.items()):
            digest.update(f"{name}{tensor.shape}".encode() + tensor.tobytes())
        return digest.hexdigest()

    def on(self, backbone: Backbone, *, allow_mismatch: bool = False) -> Prompt:
        """The prompt, in the shapes of a backbone and with its identity.

        Args:
          allow_mismatch: of no use here, where the files know no fingerprint; see `Prompt.on`.

        Raises:
          InputError: tensors that are missing or too many, numbers that do not fit them or the
            backbone, or an option that the method does not have here.
        """
        fields = read_adapter(self.stored.on(backbone), backbone.model_type)
        leaves = fields.pop("leaves")
        expected = shapes_on(fields["method"], backbone)
        leaves = fitted(self.format, leaves, expected)
        identity = {name: value for name, value in backbone.identity.items() if value}
        stated = {name: value for name, value in fields.items() if value}
        about = {"name": self.name, "versions": {}, **identity, **stated}
        prompt = Prompt(tuned=from_paths(dict(leaves)), **about)
        check_shapes(prompt, backbone, expected)
        return prompt


def read_adapter(stored: Stored, model_type: str) -> dict[str, Any]:
    """The meaning of an adapter folder, as fields of a `Prompt`; `leaves` become its tree.

    Unknown keys of its config are passed over, as PEFT does.

    Args:
      model_type: of the backbone, by which PEFT's names of its kernels are known; formats without
        kernels do not read it.
    """
    format = peft_formats()[str(stored.values.get("peft_type"))]
    stored, head = _take_head(stored) if stored.task_type in WITH_HEAD else (stored, {})
    method, leaves = format.read(stored, model_type)
    stated = {"task_type": stored.task_type} if stored.task_type else {}
    if head:
        classes = head[f"{CLASSIFIER}/out/kernel"].shape[1]
        stated |= {"num_labels": classes, "pooling": "peft"}
    fields = {
        "method": dataclasses.replace(method, **stated),
        "states_task": bool(stored.task_type),
        "leaves": {**leaves, **head},
        "backbone": stored.values.get("base_model_name_or_path") or "",
    }
    # PEFT counts other layers and heads of a prefix, and none of what is in kernels.
    sizes = ("num_layers", "num_attention_heads") if format.fit is None else ()
    return fields | {
        size: stored.whole(size) for size in sizes if stored.values.get(size) is not None
    }


def fitted(format: PeftFormat | None, leaves: Leaves, shapes: Shapes) -> Leaves:
    """The leaves in the shapes of a backbone; those of a head have them already."""
    if format is None or format.fit is None:
        return leaves
    head = {path: leaf for path, leaf in leaves.items() if path.startswith(f"{CLASSIFIER}/")}
    rest = {path: leaf for path, leaf in leaves.items() if path not in head}
    return {**format.fit(rest, shapes), **head}


def open_adapter(folder: Path, weights: Path) -> Stored:
    """The two files of an adapter folder."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise InputError(f"{folder} holds no {ADAPTER_CONFIG}; copy it again")
    return Stored(path, weights, read_json(path), read_weights(weights))


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors in a .safetensors or .bin file, float32."""
    stored = unwrapped(open_pickle(path) if path.suffix == ".bin" else open_safetensors(path))
    # In float32 at once: NumPy itself does not count bfloat16 among the real numbers.
    return {name: tensor.read().astype(np.float32) for name, tensor in stored.items()}


def obstacle(prompt: Prompt) -> str:
    """Why PEFT would run this prompt differently, and what to do; empty when it would not."""
    method, kind, format = prompt.method, prompt.model_type, method_of(prompt.method).peft
    if format is None or format.write is None:
        return f"PEFT has no format for {method.kind}"
    if method.task_type == "FEATURE_EXTRACTION" and format.root == ROOT:
        return "PEFT has other names for the modules of a model without a head"
    if method.task_type in WITH_HEAD and not format.takes_head:
        return f"PEFT saves no head beside {format.peft_type}"
    reason = _head_obstacle(method.task_type, kind, prompt.head)
    if reason:
        return reason
    if method.task_type == "SEQ_CLS" and method.input_tokens and method.pooling != "peft":
        return (
            "PEFT's head reads the first position, a virtual token, and this one the text's own; "
            'train with pooling="peft"'
        )
    return format.obstacle(method, prompt.own_arrays, kind) if format.obstacle else ""


def adapter_files(prompt: Prompt) -> tuple[dict[str, object], Leaves]:
    """The adapter_config.json of a prompt, every dimension filled in, and the tensors beside it."""
    method, kind, format = prompt.method, prompt.model_type, method_of(prompt.method).peft
    if format is None or format.write is None:
        raise InputError(obstacle(prompt))
    fields, tensors = format.write(method, prompt.own_arrays, kind)
    if prompt.head:
        tensors = {**tensors, **_head_tensors(method.task_type, kind, prompt.head, format.root)}
    common = {
        "auto_mapping": None,
        "base_model_name_or_path": prompt.backbone or None,
        "inference_mode": True,
        "peft_type": format.peft_type,
        "peft_version": PEFT_VERSION,
        "revision": None,
        "task_type": method.task_type,
    }
    if format.takes_head:
        common["modules_to_save"] = _modules_to_save(method.task_type, kind, prompt.head)
    if "num_virtual_tokens" in fields:
        common["num_attention_heads"] = prompt.num_attention_heads
        common["num_layers"] = prompt.num_layers
    return common | fields, tensors


def _head_obstacle(task_type: str, model_type: str, head: Leaves) -> str:
    """Why PEFT has no place for such a head, or wants one."""
    if task_type not in WITH_HEAD:
        return ""
    if not head:
        return f"PEFT wants a trained head beside a {task_type} prompt, and this one is a cloze"
    if not model_type:
        return "its head is that of an unknown backbone; make the prompt with prompt_for"
    names = BACKBONES[model_type].head_names(task_type, model_type)
    if any(path.split("/")[1] not in names for path in head):
        return "PEFT does not train the layer that its head has in place of a pooler"
    return ""


def _head_tensors(task_type: str, model_type: str, head: Leaves, root: str) -> Leaves:
    """The tensors of a head: matrices are [out, in] in torch."""
    names = BACKBONES[model_type].head_names(task_type, model_type)
    words = {leaf: word for word, leaf in LEAVES.items()}
    tensors = {}
    for path, leaf in head.items():
        _, layer, kind = path.split("/")
        tensors[f"{root}{names[layer]}.{words[kind]}"] = np.ascontiguousarray(leaf.T)
    return tensors


def _modules_to_save(task_type: str, model_type: str, head: Leaves) -> list[str] | None:
    """What PEFT shall load whole beside the adapter."""
    if not head:
        return None
    if task_type == "QUESTION_ANS":
        return list(BACKBONES[model_type].head_names(task_type, model_type).values())
    hidden = any(path.split("/")[1] == "hidden" for path in head)
    return ["classifier", "score", *["pre_classifier"] * hidden]


def _take_head(stored: Stored) -> tuple[Stored, dict[str, np.ndarray]]:
    """The folder without the tensors of its head, and these as leaves by path."""
    rest, head = dict(stored.tensors), {}
    for name in stored.tensors:
        # PEFT's methods with virtual tokens have `base_model.` in front, LoRA and IA3 `model.` too.
        bare = name.removeprefix("base_model.").removeprefix("model.")
        module, _, word = bare.rpartition(".")
        if module in LAYERS and word in LEAVES:
            head[f"{CLASSIFIER}/{LAYERS[module]}/{LEAVES[word]}"] = rest.pop(name).T
    kernel = head.get(f"{CLASSIFIER}/out/kernel")
    if kernel is None or kernel.ndim != 2:
        raise InputError(
            f"{stored.weights} has no tensors of a head and {stored.config} says task_type "
            f"{stored.task_type}, which has one: a {' or '.join(sorted(LAYERS))} with a weight "
            f"[classes, width]; {AGAIN}"
        )
    return stored._replace(tensors=rest), head
