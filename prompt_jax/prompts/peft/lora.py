"""LORA: two factors a kernel and layer; with DoRA also the magnitudes of its outputs."""

from typing import Any

import numpy as np

from prompt_jax.config import InputError, LoraConfig
from prompt_jax.prompts.peft import modules
from prompt_jax.prompts.peft.files import Stored

A, B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
UNSUPPORTED = (
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "bias", "kasa_config",
    "layer_replication", "layers_to_transform", "lora_bias", "monteclora_config", "rank_pattern",
    "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the frozen weights as they are; the others change them at loading."""


def obstacle(method: LoraConfig, arrays: dict[str, np.ndarray], model_type: str) -> str:
    """Why PEFT has no place for these factors."""
    return modules.unnamed(arrays, model_type)


def write(
    method: LoraConfig, arrays: dict[str, np.ndarray], model_type: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The config's own fields, and the factors as torch has matrices: [R, in] and [out, R]."""
    tensors = {}
    for path, leaf in arrays.items():
        kernel, _, name = path.rpartition("/")
        layers = len(leaf)
        if name == "a":
            leaf = leaf.reshape(layers, -1, method.r)
            tensors |= modules.layered(model_type, kernel, A, leaf.swapaxes(1, 2))
        elif name == "b":
            leaf = leaf.reshape(layers, method.r, -1)
            tensors |= modules.layered(model_type, kernel, B, leaf.swapaxes(1, 2))
        else:
            tensors |= modules.layered(model_type, kernel, MAGNITUDE, leaf.reshape(layers, -1))
    fields = {
        "bias": "none",
        "fan_in_fan_out": model_type == "gpt2",  # Whose kernels are stored [in, out].
        "init_lora_weights": True,
        "lora_alpha": method.lora_alpha,
        "lora_dropout": method.lora_dropout,
        "r": method.r,
        "target_modules": list(method.target_modules),
        "use_dora": method.use_dora,
        "use_rslora": method.use_rslora,
    }
    return fields, tensors


def read(stored: Stored) -> tuple[LoraConfig, dict[str, np.ndarray], str]:
    """The method, its arrays, in which all heads are one, and the type of model.

    Raises:
      InputError: an option that LoRA does not have here, or tensors that do not fit the config.
    """
    modules.options(stored, UNSUPPORTED)
    start = stored.values.get("init_lora_weights")
    if start not in STARTS:
        raise InputError(
            f"{stored.config} has init_lora_weights {start!r}, which changes the frozen weights; "
            "save it with path_initial_model_for_weight_conversion in PEFT, as a plain LoRA"
        )
    rank, dora = stored.whole("r", 8), bool(stored.values.get("use_dora"))
    alpha = stored.number("lora_alpha", 8)
    endings = {A: "a", B: "b"} | ({MAGNITUDE: "magnitude"} if dora else {})
    kind = modules.model_type_of(stored, endings)
    kernels = modules.stacked(stored, kind, endings)
    arrays = {}
    for path, leaves in kernels.items():
        _check(stored, kind, path, leaves, rank)
        a, b = leaves["a"].swapaxes(1, 2), leaves["b"].swapaxes(1, 2)
        arrays[f"{path}/a"] = modules.split(kind, path, "inputs", a)
        arrays[f"{path}/b"] = modules.split(kind, path, "outputs", b)
        if dora:
            magnitude = leaves["magnitude"]
            arrays[f"{path}/magnitude"] = modules.split(kind, path, "outputs", magnitude)
    method = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=stored.number("lora_dropout", 0.0),
        target_modules=modules.target_modules(
            stored, kind, {path: len(leaves["a"]) for path, leaves in kernels.items()}
        ),
        use_rslora=bool(stored.values.get("use_rslora")),
        use_dora=dora,
    )
    return method, arrays, kind


def _check(stored: Stored, kind: str, path: str, leaves: dict[str, np.ndarray], rank: int) -> None:
    a, b = leaves["a"].shape[1:], leaves["b"].shape[1:]
    magnitude = leaves["magnitude"].shape[1:] if "magnitude" in leaves else b[:1]
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank or magnitude != b[:1]:
        found = {name: list(leaf.shape[1:]) for name, leaf in leaves.items()}
        raise stored.mismatch(
            f"r is {rank} and the factors of {modules.kernels(kind)[path].modules[0]} are {found}, "
            f"where A is [{rank}, in] and B is [out, {rank}]"
        )
