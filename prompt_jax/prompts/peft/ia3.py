"""IA3: a factor a kernel and layer, [out, 1], or [1, in] where a feed-forward's input is scaled."""

from typing import Any

import numpy as np

from prompt_jax.config import IA3Config
from prompt_jax.prompts.peft import modules
from prompt_jax.prompts.peft.files import Stored

FACTOR = "ia3_l"


def obstacle(method: IA3Config, arrays: dict[str, np.ndarray], model_type: str) -> str:
    """Why PEFT would scale something else, and what to do."""
    kernels = modules.kernels(model_type)
    for path in arrays:
        kernel, _, leaf = path.rpartition("/")
        if kernel in kernels and leaf == "scale":
            name = kernels[kernel].modules[0]
            # PEFT goes by the end of a name here, without a dot before it.
            for feedforward in method.feedforward_modules:
                if name.endswith(feedforward):
                    return (
                        f"PEFT would scale {name} at its input, as its name ends in "
                        f"{feedforward!r}; name modules so that none ends in another, e.g. "
                        '"SelfAttention.o"'
                    )
    return modules.unnamed(arrays, model_type)


def write(
    method: IA3Config, arrays: dict[str, np.ndarray], model_type: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The config's own fields, and the factors."""
    tensors = {}
    for path, leaf in arrays.items():
        kernel, _, name = path.rpartition("/")
        shape = (len(leaf), -1, 1) if name == "scale" else (len(leaf), 1, -1)
        tensors |= modules.layered(model_type, kernel, FACTOR, leaf.reshape(shape))
    fields = {
        "fan_in_fan_out": model_type == "gpt2",  # Whose kernels are stored [in, out].
        "feedforward_modules": list(method.feedforward_modules),
        "init_ia3_weights": True,
        "target_modules": list(method.target_modules),
    }
    return fields, tensors


def read(stored: Stored) -> tuple[IA3Config, dict[str, np.ndarray], str]:
    """The method, its arrays, in which all heads are one, and the type of model.

    Raises:
      InputError: tensors that are no factors, or do not fit the config.
    """
    kind = modules.model_type_of(stored, [FACTOR])
    names = modules.kernels(kind)
    kernels = modules.stacked(stored, kind, {FACTOR: "factor"})
    layers = {path: len(leaves["factor"]) for path, leaves in kernels.items()}
    targets = modules.target_modules(stored, kind, layers)
    arrays, inputs = {}, []
    for path, leaves in kernels.items():
        factor = leaves["factor"]
        shape = list(factor.shape[1:])
        if len(shape) != 2 or 1 not in shape:
            raise stored.mismatch(
                f"{FACTOR} of {names[path].modules[0]} is {shape}, and a factor is "
                "[out, 1] or [1, in]"
            )
        at_input = shape[0] == 1
        inputs += [path] if at_input else []
        name, end = ("input_scale", "inputs") if at_input else ("scale", "outputs")
        arrays[f"{path}/{name}"] = modules.split(kind, path, end, factor.reshape(len(factor), -1))
    scaled = [name for path in inputs for name in modules.names_of(kind, path, layers[path])]
    feedforward = [t for t in targets if any(modules.is_called(m, t) for m in scaled)]
    method = IA3Config(target_modules=targets, feedforward_modules=tuple(feedforward))
    return method, arrays, kind
