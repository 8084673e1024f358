"""LoRA: low-rank updates of frozen kernels (Hu et al. 2021); rsLoRA and DoRA by field."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.quantised import check_whole, dequantised
from prompt_jax.config import InputError, at_least
from prompt_jax.forward import Injection
from prompt_jax.methods.full import FullConfig
from prompt_jax.methods.kernels import (
    ROOT,
    KernelConfig,
    by_place,
    fit,
    kernel_names,
    layered,
    names_of,
    peft_fields,
    refuse_options,
    stacked,
    target_modules,
    targets,
    unnamed_kernels,
)
from prompt_jax.methods.method import Leaves, PeftFormat, Stored, register_method
from prompt_jax.trees import Frozen, Tuned


@dataclass(frozen=True, kw_only=True)
class LoraConfig(KernelConfig):
    """Low-rank updates of frozen kernels (Hu et al. 2021); rsLoRA and DoRA by field."""

    kind = "lora"
    rates = {"adamw": 5e-3}

    r: int = 8
    """R, the rank."""
    lora_alpha: float = 8
    """The update is scaled by lora_alpha / r."""
    lora_dropout: float = 0.0
    """Dropout of the update's input while training."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) (Kalajdzievski 2023)."""
    use_dora: bool = False
    """Train each output's magnitude apart from its direction (Liu et al. 2024)."""

    def __post_init__(self):
        super().__post_init__()
        at_least("r", self.r, 1, "a rank of 0 trains nothing")
        if not self.lora_alpha or not math.isfinite(self.lora_alpha):
            raise InputError(
                f"lora_alpha must be a number other than 0, got {self.lora_alpha}: it scales the "
                "update"
            )
        if self.lora_alpha == int(self.lora_alpha):  # Other readers of PEFT's files want an int.
            object.__setattr__(self, "lora_alpha", int(self.lora_alpha))
        if not 0.0 <= self.lora_dropout < 1.0:
            raise InputError(f"lora_dropout must be in [0, 1), got {self.lora_dropout}")

    @property
    def scaling(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)


def resolve(config: LoraConfig, backbone: Backbone) -> LoraConfig:
    """The config with names of kernels."""
    names = config.target_modules or kernel_names(backbone, ("query", "value"))
    return dataclasses.replace(config, target_modules=names)


def init(config: LoraConfig, backbone: Backbone, key: PRNGKeyArray) -> Tuned:
    """A fresh tree: by kernel, `a` [L, *in, R] drawn as PEFT does, `b` [L, R, *out] of zeros.

    DoRA also has `magnitude` [L, *out], the norms of the frozen kernel.
    """
    leaves = {}
    for i, (path, place) in enumerate(targets(backbone, config.target_modules).items()):
        # PEFT draws A by kaiming_uniform_(a=sqrt(5)), which is uniform within 1 / sqrt(inputs).
        bound = math.prod(place.inputs) ** -0.5
        shape = (place.layers, *place.inputs, config.r)
        draw = jax.random.uniform(jax.random.fold_in(key, i), shape, minval=-bound, maxval=bound)
        leaves[path] = {"a": draw, "b": jnp.zeros((place.layers, config.r, *place.outputs))}
        if config.use_dora:
            kernel = dequantised(backbone.params, f"{path}/kernel")
            # As in PEFT, the norm of each output over all of its inputs, in float32.
            axes = tuple(range(1, 1 + len(place.inputs)))
            norm = jnp.sqrt(jnp.square(kernel.astype(jnp.float32)).sum(axes))
            leaves[path]["magnitude"] = norm
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def materialize(config: LoraConfig, tuned: Tuned, key: PRNGKeyArray | None = None) -> Injection:
    """The factors in their kernels' sockets, the scaling in the second one."""
    sockets = {}
    for path, leaves in by_place(tuned).items():
        lora = {**leaves, "b": leaves["b"] * config.scaling}
        if config.lora_dropout and key is not None:
            # One number a layer, since the scan over layers slices every leaf of a socket.
            lora["dropout"] = jnp.full(len(leaves["b"]), config.lora_dropout)
        sockets[(*path, "lora")] = lora
    return Injection(sockets=flax.traverse_util.unflatten_dict(sockets))


def merge(config: LoraConfig, tuned: Tuned, frozen: Frozen) -> tuple[FullConfig, Frozen]:
    """The frozen tree with the updates added to its kernels.

    The frozen tree stays as it is, so that unmerging is going back to it.
    """
    check_whole(frozen, "merging")
    params: Any = flax.traverse_util.flatten_dict(dict(frozen))
    for path, leaves in by_place(tuned).items():
        kernel = params[(*path, "kernel")]
        update = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))(leaves["a"], leaves["b"])
        # Added in float32 and rounded once, to the type of the kernel.
        merged = kernel.astype(jnp.float32) + config.scaling * update
        if "magnitude" in leaves:
            axes = tuple(range(1, leaves["a"].ndim - 1))
            norm = jnp.sqrt(jnp.square(merged).sum(axes, keepdims=True))
            magnitude = leaves["magnitude"]
            merged = merged * jnp.expand_dims(magnitude, axes) / norm
        params[(*path, "kernel")] = merged.astype(kernel.dtype)
    return FullConfig(task_type=config.task_type), flax.traverse_util.unflatten_dict(params)


A, B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
UNSUPPORTED = (
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "bias", "kasa_config",
    "layer_replication", "layers_to_transform", "lora_bias", "monteclora_config", "rank_pattern",
    "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the frozen weights as they are; the others change them at loading."""


def write(
    config: LoraConfig, leaves: Leaves, model_type: str
) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """PEFT's fields, and the factors as torch has matrices: [R, in] and [out, R]."""
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in leaves.items():
        kernel, _, name = path.rpartition("/")
        layers = len(leaf)
        if name == "a":
            leaf = leaf.reshape(layers, -1, config.r)
            tensors |= layered(model_type, kernel, A, leaf.swapaxes(1, 2))
        elif name == "b":
            leaf = leaf.reshape(layers, config.r, -1)
            tensors |= layered(model_type, kernel, B, leaf.swapaxes(1, 2))
        else:
            tensors |= layered(model_type, kernel, MAGNITUDE, leaf.reshape(layers, -1))
    fields = {
        "bias": "none",
        "init_lora_weights": True,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "r": config.r,
        "use_dora": config.use_dora,
        "use_rslora": config.use_rslora,
    }
    return peft_fields(config, model_type) | fields, tensors


def read(stored: Stored, model_type: str) -> tuple[LoraConfig, Leaves]:
    """The method and its factors, [L, in, R] and [L, R, out]."""
    refuse_options(stored, UNSUPPORTED)
    start = stored.values.get("init_lora_weights")
    if start not in STARTS:
        raise InputError(
            f"{stored.config} has init_lora_weights {start!r}, which changes the frozen weights; "
            "save it with path_initial_model_for_weight_conversion in PEFT, as a plain LoRA"
        )
    rank, dora = stored.whole("r", 8), bool(stored.values.get("use_dora"))
    alpha = stored.number("lora_alpha", 8)
    endings = {A: "a", B: "b"} | ({MAGNITUDE: "magnitude"} if dora else {})
    stacks = stacked(stored, model_type, endings)
    leaves = {}
    for path, factors in stacks.items():
        _check(stored, model_type, path, factors, rank)
        for name, factor in factors.items():
            # Torch has matrices the other way round.
            leaves[f"{path}/{name}"] = factor.swapaxes(1, 2) if factor.ndim == 3 else factor
    depths = {path: len(factors["a"]) for path, factors in stacks.items()}
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=stored.number("lora_dropout", 0.0),
        target_modules=target_modules(stored, model_type, depths),
        use_rslora=bool(stored.values.get("use_rslora")),
        use_dora=dora,
    )
    return config, leaves


def _check(stored: Stored, model_type: str, path: str, leaves: Leaves, rank: int) -> None:
    a, b = leaves["a"].shape[1:], leaves["b"].shape[1:]
    magnitude = leaves["magnitude"].shape[1:] if "magnitude" in leaves else b[:1]
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank or magnitude != b[:1]:
        shapes = {name: list(leaf.shape[1:]) for name, leaf in leaves.items()}
        raise stored.mismatch(
            f"r is {rank} and the factors of {names_of(model_type, path, 1)[0]} are {shapes}, "
            f"where A is [{rank}, in] and B is [out, {rank}]"
        )


register_method(
    LoraConfig,
    init=init,
    materialize=materialize,
    resolve=resolve,
    merge=merge,
    peft=PeftFormat("LORA", read, write, unnamed_kernels, fit, ROOT),
)
