"""What PEFT calls the tensors of a kernel, a name a layer, and their stacks in a tuned tree."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from prompt_jax.backbones.sockets import Projection
from prompt_jax.backbones.t5 import T5Config, sockets
from prompt_jax.config import InputError
from prompt_jax.prompts.peft.files import AGAIN, Stored

ROOT = "base_model.model."
LAYER = re.compile(r"\.block\.(\d+)\.")


@functools.cache
def kernels() -> dict[str, Projection]:
    """Every kernel that a T5 may have, gated or not, by path, of its first layer."""
    found: dict[str, Projection] = {}
    for gated in (False, True):
        config = T5Config(num_layers=1, num_decoder_layers=1, gated=gated)
        found |= sockets(config).projections
    return found


def unnamed(arrays: dict[str, np.ndarray]) -> str:
    """Why PEFT has no names for some leaves; empty when it has."""
    unknown = sorted(path for path in arrays if path.rpartition("/")[0] not in kernels())
    return f"PEFT's names of {', '.join(unknown)} are not known" if unknown else ""


def options(stored: Stored, names: Sequence[str]) -> None:
    """Checks that options which the method does not have here are not in use.

    Raises:
      InputError: one is.
    """
    for name in names:
        value = stored.values.get(name)
        if value not in (None, False, "none", {}, []):
            raise InputError(
                f"{stored.config} has {name} {value!r}, which is not supported here; allowed: none;"
                " merge the adapter in PEFT, or train without it"
            )


def layered(path: str, ending: str, layers: Float[np.ndarray, "L ..."]) -> dict[str, Any]:
    """Tensors of a kernel's leaf by PEFT's names, one a layer."""
    module = kernels()[path].modules[0]
    return {
        f"{ROOT}{LAYER.sub(f'.block.{i}.', module, count=1)}.{ending}": layer
        for i, layer in enumerate(layers)
    }


def stacked(stored: Stored, endings: Mapping[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """The leaves of every kernel by path, with L in front; the reverse of `layered`.

    Args:
      endings: how PEFT ends the name of a tensor, and the name of the leaf it is.

    Raises:
      InputError: tensors of something else, or some layers or leaves of a kernel are missing.
    """
    paths = {LAYER.sub(".block.", p.modules[0], count=1): path for path, p in kernels().items()}
    depths: dict[str, int] = {}
    found: set[str] = set()
    for name in stored.tensors:
        module = name.removeprefix(ROOT)
        module = next((module[: -len(e) - 1] for e in endings if name.endswith(f".{e}")), "")
        path, layer = paths.get(LAYER.sub(".block.", module, count=1)), LAYER.search(module)
        if path is None or layer is None or len(layer[1]) > 4:
            continue
        stack = path.partition("/")[0]
        found.add(path)
        depths[stack] = max(depths.get(stack, 0), 1 + int(layer[1]))
    if not found:
        raise InputError(
            f"{stored.weights} holds no tensor of a kernel of T5, only "
            f"{', '.join(sorted(stored.tensors)) or 'nothing'}; allowed are names such as "
            f"{next(iter(layered('encoder/layers/attention/query', [*endings][0], np.ones(1))))}"
        )
    # A name for every layer of the stack, so that a layer left out is missed.
    names = {
        (path, leaf): list(layered(path, ending, np.empty(depths[path.partition("/")[0]])))
        for path in sorted(found)
        for ending, leaf in endings.items()
    }
    stored.expect(name for layers in names.values() for name in layers)
    kernel_leaves: dict[str, dict[str, np.ndarray]] = {path: {} for path in sorted(found)}
    for (path, leaf), layers in names.items():
        tensors = [stored.tensors[name] for name in layers]
        if len({tensor.shape for tensor in tensors}) > 1:
            raise InputError(
                f"{stored.weights}: {layers[0]} and its like in the other layers differ in shape; "
                f"layers are tuned together here, so use one rank; {AGAIN}"
            )
        kernel_leaves[path][leaf] = np.stack(tensors)
    return kernel_leaves


def target_modules(stored: Stored, paths: Sequence[str]) -> tuple[str, ...]:
    """The names that these kernels were asked for by: those of the config, if it lists names.

    Raises:
      InputError: a name has no tensor, or a tensor no name.
    """
    modules = {path: kernels()[path].modules[0] for path in paths}
    listed = stored.values.get("target_modules")
    if not isinstance(listed, list):
        # A pattern, of which only the outcome is known.
        return tuple(sorted({name.rpartition(".")[2] for name in modules.values()}))
    names = sorted(map(str, listed))
    without = [n for n in names if not any(is_called(m, n) for m in modules.values())]
    stray = [m for m in modules.values() if not any(is_called(m, n) for n in names)]
    if without or stray:
        why = [f"target_modules name {', '.join(without)} without a tensor"] if without else []
        why += [f"tensors of {', '.join(stray)} without a target module"] if stray else []
        raise stored.mismatch(" and there are ".join(why))
    return tuple(names)


def is_called(module: str, name: str) -> bool:
    """Whether `target_modules` mean a module by a name."""
    return module == name or module.endswith(f".{name}")


def split(path: str, end: str, leaf: np.ndarray) -> np.ndarray:
    """A leaf [L, A, ...] or [L, ..., A] with one head apart where A is that of all heads.

    How many there are is no matter of PEFT's files; see `peft_shapes`.
    """
    place = kernels()[path]
    if len(place.inputs if end == "inputs" else place.outputs) == 1:
        return leaf
    return leaf[:, None] if end == "inputs" else leaf[..., None, :]
