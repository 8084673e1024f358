"""A trained head beside any method: the last layer on the frozen model, and PEFT's names of it.

Every method may have one (`num_labels`); its leaves stand in the tuned tree under `classifier`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from prompt_jax.backbones import BACKBONES, Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.config.method import WITH_HEAD
from prompt_jax.methods.peft import AGAIN, Leaves, Stored
from prompt_jax.trees import Tuned

CLASSIFIER = "classifier"
"""Where a tuned tree holds its head, whatever the method."""
STD = 0.02  # As BERT starts it.
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


def init_head(config: MethodConfig, backbone: Backbone, key: PRNGKeyArray) -> Tuned:
    """`out` [D, C], and before it `hidden` [D, D] where the family's heads have it.

    Raises:
      InputError: such a backbone takes no head.
    """
    if config.task_type not in backbone.task_types:
        raise InputError(
            f"backbone {backbone.name!r} takes no head for {config.task_type}; it does "
            f"{', '.join(backbone.task_types)}: leave num_labels out, and it answers in words"
        )
    shape, width = backbone.config.head(config.task_type), backbone.width
    keys = jax.random.split(key)

    def linear(key: PRNGKeyArray, outputs: int, bias: bool) -> dict[str, Array]:
        kernel = {"kernel": STD * jax.random.normal(key, (width, outputs))}
        return kernel | ({"bias": jnp.zeros(outputs)} if bias else {})

    hidden = {"hidden": linear(keys[0], width, True)} if shape.hidden else {}
    return hidden | {"out": linear(keys[1], config.num_labels or 0, shape.bias)}


def head_obstacle(task_type: str, model_type: str, head: Leaves) -> str:
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


def write_head(task_type: str, model_type: str, head: Leaves, root: str) -> Leaves:
    """The tensors of a head: matrices are [out, in] in torch."""
    names = BACKBONES[model_type].head_names(task_type, model_type)
    words = {leaf: word for word, leaf in LEAVES.items()}
    tensors = {}
    for path, leaf in head.items():
        _, layer, kind = path.split("/")
        tensors[f"{root}{names[layer]}.{words[kind]}"] = np.ascontiguousarray(leaf.T)
    return tensors


def modules_to_save(task_type: str, head: Leaves) -> list[str] | None:
    """What PEFT shall load whole beside the adapter."""
    if not head:
        return None
    if task_type == "QUESTION_ANS":
        return ["qa_outputs"]
    hidden = any(path.split("/")[1] == "hidden" for path in head)
    return ["classifier", "score", *["pre_classifier"] * hidden]


def take_head(stored: Stored) -> tuple[Stored, dict[str, np.ndarray]]:
    """The folder without the tensors of its head, and these as leaves by path.

    Raises:
      InputError: there are none, and its task has one.
    """
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
