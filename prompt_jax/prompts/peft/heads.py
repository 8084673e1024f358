"""The trained head that PEFT keeps beside an adapter: a linear layer, or two."""

from collections.abc import Mapping

import numpy as np

from prompt_jax.backbones import BACKBONES
from prompt_jax.config import InputError
from prompt_jax.config.method import WITH_HEAD
from prompt_jax.methods import CLASSIFIER
from prompt_jax.prompts.peft.files import AGAIN, Stored
from prompt_jax.prompts.prompt import Prompt

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


def _layers(task_type: str, model_type: str) -> dict[str, str]:
    """Layers of a head and what they are called in one family."""
    if task_type == "QUESTION_ANS":
        return {"out": "qa_outputs"}
    if not BACKBONES[model_type].Config.is_encoder:
        tags = task_type == "TOKEN_CLS" and model_type == "gpt2"
        return {"out": "classifier" if tags else "score"}
    if task_type == "SEQ_CLS" and "roberta" in model_type:
        return {"hidden": "classifier.dense", "out": "classifier.out_proj"}
    if task_type == "SEQ_CLS" and model_type == "distilbert":
        return {"hidden": "pre_classifier", "out": "classifier"}
    return {"out": "classifier"}


def leaves_of(prompt: Prompt) -> dict[str, np.ndarray]:
    """The leaves of a prompt's head, by path; none without one."""
    own = prompt.own_arrays
    return {path: leaf for path, leaf in prompt.arrays.items() if path not in own}


def obstacle(task_type: str, model_type: str, head: Mapping[str, np.ndarray]) -> str:
    """Why PEFT has no place for such a head, or wants one."""
    if task_type not in WITH_HEAD:
        return ""
    if not head:
        return f"PEFT wants a trained head beside a {task_type} prompt, and this one is a cloze"
    if not model_type:
        return "its head is that of an unknown backbone; make the prompt with prompt_for"
    known = _layers(task_type, model_type)
    if any(path.split("/")[1] not in known for path in head):
        return "PEFT does not train the layer that its head has in place of a pooler"
    return ""


def write(
    task_type: str, model_type: str, head: Mapping[str, np.ndarray], root: str
) -> dict[str, np.ndarray]:
    """The tensors of a head: matrices are [out, in] in torch."""
    names = _layers(task_type, model_type)
    words = {leaf: word for word, leaf in LEAVES.items()}
    tensors = {}
    for path, leaf in head.items():
        _, layer, kind = path.split("/")
        tensors[f"{root}{names[layer]}.{words[kind]}"] = np.ascontiguousarray(leaf.T)
    return tensors


def modules_to_save(task_type: str, head: Mapping[str, np.ndarray]) -> list[str] | None:
    """What PEFT shall load whole beside the adapter."""
    if not head:
        return None
    if task_type == "QUESTION_ANS":
        return ["qa_outputs"]
    hidden = any(path.split("/")[1] == "hidden" for path in head)
    return ["classifier", "score", *["pre_classifier"] * hidden]


def take(stored: Stored) -> tuple[Stored, dict[str, np.ndarray]]:
    """The folder without the tensors of its head, and these as leaves by path.

    Raises:
      InputError: a task that has a head, and no tensors of one.
    """
    if stored.task_type not in WITH_HEAD:
        return stored, {}
    rest, head = dict(stored.tensors), {}
    for name in stored.tensors:
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
