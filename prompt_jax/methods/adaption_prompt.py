"""LLaMA-Adapter: rows that upper layers attend to behind a zero gate (Zhang et al. 2023).

Unlike a prefix, the rows of a layer have a softmax of their own, so that they take no weight from
the text, and a gate that is closed at the start: training begins at the plain model.
"""

import dataclasses
from dataclasses import dataclass

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.sockets import Attention
from prompt_jax.config import InputError, MethodConfig, at_least
from prompt_jax.config.checks import each_at_least_one
from prompt_jax.forward import Injection
from prompt_jax.methods.kernels import LAYER, ROOT, by_place, fit, kernels, names_of
from prompt_jax.methods.method import FIXED, Leaves, PeftFormat, Stored, register_method
from prompt_jax.trees import Tuned, by_path


@dataclass(frozen=True, kw_only=True)
class AdaptionPromptConfig(MethodConfig):
    """Trained rows that the upper layers attend to behind a zero gate (Zhang et al. 2023)."""

    kind = "adaption_prompt"
    rates = {"adamw": 1e-2}

    adapter_len: int = 10
    """P, the rows of a layer."""
    adapter_layers: int | None = None
    """How many layers have them, counted from the top; None is all but the first two."""
    projected: bool | None = None
    """Whether what the rows answer passes through the attention's output kernel. None is as PEFT
    has it: on all models but GPT-2."""

    def __post_init__(self):
        super().__post_init__()
        each_at_least_one(self, "adapter_len")
        if self.adapter_layers is not None:
            at_least("adapter_layers", self.adapter_layers, 1)


def resolve(config: AdaptionPromptConfig, backbone: Backbone) -> AdaptionPromptConfig:
    """The config with what its fields mean on a backbone."""
    _, place = _attention(backbone)
    count = config.adapter_layers or max(place.layers - 2, 1)
    if count > place.layers:
        raise InputError(
            f"adapter_layers is {count} and backbone {backbone.name!r} has {place.layers} layers; "
            f"allowed: 1 to {place.layers}"
        )
    projected = config.projected
    if projected is None:
        projected = backbone.model_type not in BEHIND
    return dataclasses.replace(config, adapter_layers=count, projected=projected)


def _attention(backbone: Backbone) -> tuple[str, Attention]:
    """The self-attention that writes, or that of a model which only reads."""
    attentions = backbone.sockets.attentions
    roles = {place.role: path for path, place in attentions.items()}
    path = roles.get("decoder") or roles["encoder"]
    return path, attentions[path]


def init(config: AdaptionPromptConfig, backbone: Backbone, key: PRNGKeyArray) -> Tuned:
    """`prompt` [A, P, D] and `gate` [A] of the upper A layers; gates are closed.

    They are under `inside` or `behind`, as the socket has them. `fixed` has `upper` [L], one where
    a layer is among them.
    """
    path, place = _attention(backbone)
    width = backbone.sockets.blocks[path.rpartition("/")[0]].width
    count = config.adapter_layers
    assert count is not None
    return _tree(
        f"{path}/{_socket(config)}",
        jax.random.normal(key, (count, config.adapter_len, width)),
        jnp.zeros(count),
        place.layers,
    )


def _socket(config: AdaptionPromptConfig) -> str:
    return "inside" if config.projected else "behind"


def _tree(path: str, prompt: Array, gate: Array, layers: int) -> Tuned:
    upper = jnp.arange(layers) >= layers - len(gate)
    leaves = {f"{path}/prompt": prompt, f"{path}/gate": gate, UPPER: upper.astype(jnp.float32)}
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def materialize(
    config: AdaptionPromptConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> Injection:
    """The rows in the attention's socket; a gate of zero in layers that have none."""
    layers, sockets = len(tuned[FIXED]["upper"]), {}
    for (*path, where), leaves in by_place({n: b for n, b in tuned.items() if n != FIXED}).items():
        below = layers - len(leaves["gate"])
        sockets[(*path, "adaption", where)] = {
            # A scan runs all layers alike: what the lower ones get is no parameter.
            name: jnp.pad(leaf, [(below, 0), *[(0, 0)] * (leaf.ndim - 1)])
            for name, leaf in leaves.items()
        }
    return Injection(sockets=flax.traverse_util.unflatten_dict(sockets))


UPPER = f"{FIXED}/upper"
BEHIND = ("gpt2",)
"""Model types whose output kernel PEFT leaves out."""
MODEL_TYPES = ("llama", "mistral", *BEHIND)
"""Those that PEFT has adaption prompts for."""
TENSORS = {"prompt": "adaption_prompt", "gate": "adaption_gate"}


def obstacle(config: AdaptionPromptConfig, leaves: Leaves, model_type: str) -> str:
    """Why PEFT would run these rows differently, and what to do."""
    if model_type not in MODEL_TYPES:
        allowed = ", ".join(MODEL_TYPES)
        return f"PEFT has adaption prompts for {allowed} alone, and this is one of {model_type}"
    if config.projected != (model_type not in BEHIND):
        return (
            f"PEFT has projected={model_type not in BEHIND} on {model_type} and this one has "
            f"{config.projected}; train without that option"
        )
    return ""


def _modules(model_type: str, layers: int) -> tuple[str, list[str]]:
    """The path of the attention, and what Hugging Face calls it in every layer."""
    out = next(
        path for path in kernels(model_type) if path.endswith("decoder/layers/attention/out")
    )
    names = [name.rpartition(".")[0] for name in names_of(model_type, out, layers)]
    return out.rpartition("/")[0], names


def write(
    config: AdaptionPromptConfig, leaves: Leaves, model_type: str
) -> tuple[dict[str, object], Leaves]:
    """PEFT's fields, and two tensors a layer."""
    path, names = _modules(model_type, len(leaves[UPPER]))
    prompt, gate = (leaves[f"{path}/{_socket(config)}/{name}"] for name in TENSORS)
    tensors: dict[str, np.ndarray] = {}
    for name, rows, opened in zip(names[-len(gate) :], prompt, gate, strict=True):
        tensors[f"{ROOT}{name}.{TENSORS['prompt']}"] = rows[None]
        tensors[f"{ROOT}{name}.{TENSORS['gate']}"] = opened[None]
    fields: dict[str, object] = {
        "adapter_layers": len(gate),
        "adapter_len": prompt.shape[1],
        "target_modules": names[0].rpartition(".")[2],
    }
    return fields, tensors


def read(stored: Stored, model_type: str) -> tuple[AdaptionPromptConfig, Leaves]:
    """The method and its leaves: the upper layers of a decoder."""
    if model_type not in MODEL_TYPES:
        raise InputError(
            f"{stored.config} is an adaption prompt, which PEFT has for {', '.join(MODEL_TYPES)} "
            f"alone, and the backbone is a {model_type}; use the one that it was trained on"
        )
    count, rows = stored.whole("adapter_layers"), stored.whole("adapter_len")
    numbers = [int(layer[2]) for name in stored.tensors if (layer := LAYER.search(name))]
    # PEFT's layers are the upper ones, so that the last of them is the last of the model.
    layers = max(1 + max(numbers, default=0), count)
    path, names = _modules(model_type, layers)
    named = {
        leaf: [f"{ROOT}{name}.{tensor}" for name in names[-count:]]
        for leaf, tensor in TENSORS.items()
    }
    stored.expect(name for layer in named.values() for name in layer)
    prompts = [stored.tensors[name] for name in named["prompt"]]
    gates = [stored.tensors[name] for name in named["gate"]]
    for name, prompt in zip(named["prompt"], prompts, strict=True):
        if prompt.ndim != 3 or prompt.shape[:2] != (1, rows) or prompt.shape != prompts[0].shape:
            raise stored.mismatch(
                f"adapter_len is {rows} and {name} is {list(prompt.shape)}, where it is "
                f"[1, {rows}, width] in all layers"
            )
    config = AdaptionPromptConfig(
        adapter_len=rows, adapter_layers=count, projected=model_type not in BEHIND
    )
    path = f"{path}/{_socket(config)}"
    tree = _tree(path, jnp.concatenate(prompts), jnp.concatenate(gates), layers)
    return config, {path: np.asarray(leaf) for path, leaf in by_path(tree).items()}


register_method(
    AdaptionPromptConfig,
    init=init,
    materialize=materialize,
    resolve=resolve,
    peft=PeftFormat("ADAPTION_PROMPT", read, write, obstacle, fit, ROOT, takes_head=False),
)
