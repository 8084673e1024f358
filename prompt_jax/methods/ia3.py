"""IA3: trained factors on keys, values and the feed-forward's inner states (Liu et al. 2022)."""

import dataclasses
from dataclasses import dataclass

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.forward import Injection
from prompt_jax.methods.kernels import (
    ROOT,
    KernelConfig,
    fit,
    is_called,
    kernel_names,
    kernels,
    layered,
    names_of,
    peft_fields,
    stacked,
    target_modules,
    targets,
    unnamed_kernels,
)
from prompt_jax.methods.method import Leaves, PeftFormat, Stored, register_method
from prompt_jax.trees import Tuned


@dataclass(frozen=True, kw_only=True)
class IA3Config(KernelConfig):
    """Trained factors on keys, values and the feed-forward's inner states (Liu et al. 2022)."""

    kind = "ia3"
    rates = {"adamw": 3e-2}

    feedforward_modules: tuple[str, ...] = ()
    """Which of them are scaled at their input; beside named target_modules, empty is none."""


def resolve(config: IA3Config, backbone: Backbone) -> IA3Config:
    """The config with names of kernels."""
    if config.target_modules:
        return config
    names = kernel_names(backbone, ["scaled"])
    # By the name of the feed-forward's, BERT's attentions are scaled at their inputs as well.
    feedforward = config.feedforward_modules or kernel_names(backbone, ["feedforward"])
    return dataclasses.replace(config, target_modules=names, feedforward_modules=feedforward)


def init(config: IA3Config, backbone: Backbone, key: PRNGKeyArray) -> Tuned:
    """A fresh tree: by kernel, `scale` [L, *out], or `input_scale` [L, *in], of ones."""
    for module in config.feedforward_modules:
        if module not in config.target_modules:
            raise InputError(
                f"feedforward_modules name {module!r} is not among target_modules "
                f"{', '.join(config.target_modules)}; add it there"
            )
    scaled_in = targets(backbone, config.feedforward_modules)
    leaves = {}
    for path, place in targets(backbone, config.target_modules).items():
        name, size = (
            ("input_scale", place.inputs) if path in scaled_in else ("scale", place.outputs)
        )
        leaves[path] = {name: jnp.ones((place.layers, *size))}
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def materialize(config: IA3Config, tuned: Tuned, key: PRNGKeyArray | None = None) -> Injection:
    """The factors as they are: the tuned tree has the sockets' shape."""
    return Injection(sockets=dict(tuned))


FACTOR = "ia3_l"


def obstacle(config: IA3Config, leaves: Leaves, model_type: str) -> str:
    """Why PEFT would scale something else, and what to do."""
    places = kernels(model_type)
    for path in leaves:
        kernel, _, leaf = path.rpartition("/")
        if kernel in places and leaf == "scale":
            name = places[kernel].modules[0]
            # PEFT goes by the end of a name here, without a dot before it.
            for feedforward in config.feedforward_modules:
                if name.endswith(feedforward):
                    return (
                        f"PEFT would scale {name} at its input, as its name ends in "
                        f"{feedforward!r}; name modules so that none ends in another, e.g. "
                        '"SelfAttention.o"'
                    )
    return unnamed_kernels(config, leaves, model_type)


def write(
    config: IA3Config, leaves: Leaves, model_type: str
) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """PEFT's fields, and a factor a kernel and layer: [out, 1], or [1, in] of a feed-forward."""
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in leaves.items():
        kernel, _, name = path.rpartition("/")
        shape = (len(leaf), -1, 1) if name == "scale" else (len(leaf), 1, -1)
        tensors |= layered(model_type, kernel, FACTOR, leaf.reshape(shape))
    feedforward = list(config.feedforward_modules)
    fields = {"feedforward_modules": feedforward, "init_ia3_weights": True}
    return peft_fields(config, model_type) | fields, tensors


def read(stored: Stored, model_type: str) -> tuple[IA3Config, Leaves]:
    """The method and its factors, [L, out] or [L, in]."""
    stacks = stacked(stored, model_type, {FACTOR: "factor"})
    depths = {path: len(leaves["factor"]) for path, leaves in stacks.items()}
    modules = target_modules(stored, model_type, depths)
    factors, scaled = {}, []
    for path, leaves in stacks.items():
        factor = leaves["factor"]
        shape = list(factor.shape[1:])
        if len(shape) != 2 or 1 not in shape:
            raise stored.mismatch(
                f"{FACTOR} of {names_of(model_type, path, 1)[0]} is {shape}, and a factor is "
                "[out, 1] or [1, in]"
            )
        # Only the place of the 1 tells whether PEFT scaled the input or the output.
        at_input = shape[0] == 1
        scaled += names_of(model_type, path, depths[path]) if at_input else []
        name = "input_scale" if at_input else "scale"
        factors[f"{path}/{name}"] = factor.reshape(len(factor), -1)
    feedforward = [name for name in modules if any(is_called(m, name) for m in scaled)]
    return IA3Config(target_modules=modules, feedforward_modules=tuple(feedforward)), factors


register_method(
    IA3Config,
    init=init,
    materialize=materialize,
    resolve=resolve,
    peft=PeftFormat("IA3", read, write, obstacle, fit, ROOT),
)
