"""The kernels of a backbone by the names that Hugging Face and PEFT have for them.

PEFT has a tensor for every layer, and a tuned tree a stack of them.
"""

import difflib
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from prompt_jax.backbones import BACKBONES, FAMILIES, Backbone, t5gemma
from prompt_jax.backbones.sockets import Projection
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.methods.method import AGAIN, Leaves, Shapes, Stored
from prompt_jax.trees import Tuned

ROOT = "base_model.model."
PART = re.compile(r"\.(?:lora_|ia3_|base_layer\.|weight$|bias$).*")
"""What follows a module's name in that of a tensor."""
TOGETHER = "layers are tuned together here: tune all of them, or merge the adapter in PEFT"
LAYER = re.compile(r"(\.(?:block|h|layers?)\.)(\d+)(?=\.)")
"""Where the name of a tensor says which layer it is of, in every family."""


@dataclass(frozen=True, kw_only=True)
class KernelConfig(MethodConfig):
    """What methods have that tune kernels by name."""

    target_modules: tuple[str, ...] = ()
    """Which kernels: names or their last parts, as Hugging Face has them; empty takes those that
    PEFT takes for the family, of T5 "q" and "v" for LoRA, "k", "v" and "wo" for IA3."""


def peft_fields(config: KernelConfig, model_type: str) -> dict[str, object]:
    """What PEFT's config says of the kernels."""
    fields: dict[str, object] = {
        "fan_in_fan_out": stores_in_out(model_type),
        "target_modules": list(config.target_modules),
    }
    # Their vision tower, which no text reads, has kernels of the same names.
    seeing = model_type in t5gemma.WITH_VISION
    return fields | ({"exclude_modules": r".*\.vision_tower\..*"} if seeing else {})


def targets(backbone: Backbone, modules: Sequence[str]) -> dict[str, Projection]:
    """The kernels whose name is one of `modules`, or ends in one behind a dot.

    Names with layers in them are as good, as long as all layers of a kernel are named.

    Raises:
      InputError: a name that matches nothing, or names of only some layers of a kernel.
    """
    projections = backbone.sockets.projections
    for module in modules:
        if not any(
            is_called(name, module) for place in projections.values() for name in place.modules
        ):
            raise InputError(_nothing(module, projections, backbone.name))
    chosen = {}
    for path, place in sorted(projections.items()):
        unnamed = [n for n in place.modules if not any(is_called(n, module) for module in modules)]
        if not unnamed:
            chosen[path] = place
        elif len(unnamed) < len(place.modules):
            layers, count = len(place.modules), len(unnamed)
            raise InputError(
                f"target_modules name {layers - count} of {layers} layers of {path} and not "
                f"{', '.join(unnamed)}; layers are tuned together, so name the kernel without its "
                f"layer, {place.modules[0].rpartition('.')[2]!r}, or all of them"
            )
    return chosen


def kernel_names(backbone: Backbone, roles: Sequence[str]) -> tuple[str, ...]:
    """What the family calls the kernels of some roles, each name once.

    Args:
      roles: among `query`, `value`, `scaled` and `feedforward`, see `Family.kernel_names`.
    """
    names = backbone.family.kernel_names(backbone.model_type)
    return tuple(dict.fromkeys(name for role in roles for name in names[role]))


def by_place(tree: Tuned) -> dict[tuple[str, ...], dict[str, Any]]:
    """The leaves of every place in a tree, by its path."""
    places: dict[tuple[str, ...], dict[str, Any]] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        *place, name = (key.key for key in path)
        places.setdefault(tuple(place), {})[name] = leaf
    return places


def is_called(module: str, name: str) -> bool:
    """Whether `target_modules` mean a module by a name."""
    return module == name or module.endswith(f".{name}")


def _nothing(module: str, projections: dict[str, Projection], name: str) -> str:
    last = sorted({place.modules[0].rpartition(".")[2] for place in projections.values()})
    near = difflib.get_close_matches(module, last, n=1)
    hint = f" Perhaps you meant {near[0]!r}?" if near else ""
    return (
        f"target_modules name {module!r} matches nothing in backbone {name!r}; "
        f"allowed: {', '.join(last)}.{hint}"
    )


@functools.cache
def kernels(model_type: str) -> dict[str, Projection]:
    """Every kernel that a model of a type may have, by path, of its first layer.

    Args:
      model_type: Hugging Face's; "" is of a prompt that was saved when there was one family alone.
    """
    family = BACKBONES[model_type] if model_type else FAMILIES[0]
    projections: dict[str, Projection] = {}
    for config in family.one_layer(model_type):
        projections |= family.sockets(config).projections
    return projections


def stores_in_out(model_type: str) -> bool:
    """Whether a family's kernels are stored [in, out]: PEFT's `fan_in_fan_out`."""
    family = BACKBONES[model_type] if model_type else FAMILIES[0]
    path = next(iter(kernels(model_type)))
    return not family.transposed(family.one_layer(model_type)[0], f"{path}/kernel")


def _without_layer(name: str) -> str:
    # Only the first match: in T5's `block.3.layer.1` the second number is that of a sublayer.
    return LAYER.sub(r"\1", name, count=1)


def unnamed_kernels(config: MethodConfig, leaves: Leaves, model_type: str) -> str:
    """Why PEFT has no names for some leaves; empty when it has."""
    named = kernels(model_type)
    unnamed = sorted(path for path in leaves if path.rpartition("/")[0] not in named)
    return f"PEFT's names of {', '.join(unnamed)} are not known" if unnamed else ""


def refuse_options(stored: Stored, names: Sequence[str]) -> None:
    """Checks that options which the method does not have here are not in use."""
    for name in names:
        value = stored.values.get(name)
        # 0 is a layer, and equals False.
        if not (value is None or value is False or value in ("none", {}, [])):
            raise InputError(
                f"{stored.config} has {name} {value!r}, which is not supported here; allowed: none;"
                " merge the adapter in PEFT, or train without it"
            )


def names_of(model_type: str, path: str, layers: int) -> list[str]:
    """What a kernel is called, a name a layer."""
    module = kernels(model_type)[path].modules[0]
    return [LAYER.sub(rf"\g<1>{i}", module, count=1) for i in range(layers)]


def _tensor_names(model_type: str, path: str, ending: str, layers: int) -> list[str]:
    return [f"{ROOT}{name}.{ending}" for name in names_of(model_type, path, layers)]


def layered(
    model_type: str, path: str, ending: str, layers: Float[np.ndarray, "L ..."]
) -> dict[str, np.ndarray]:
    """Tensors of a kernel's leaf by PEFT's names, one a layer."""
    names = _tensor_names(model_type, path, ending, len(layers))
    return dict(zip(names, layers, strict=True))


def stacked(
    stored: Stored, model_type: str, endings: Mapping[str, str]
) -> dict[str, dict[str, np.ndarray]]:
    """The leaves of every kernel by path, with L in front; the reverse of `layered`.

    Args:
      endings: how PEFT ends the name of a tensor, and the name of the leaf it is.
    """
    depths = _depths(stored, model_type, endings)
    _refuse_others(stored, model_type)
    _refuse_some_layers(stored, model_type, depths, endings)
    # A name for every layer of the stack, so that a layer left out is missed.
    names = {
        (path, leaf): _tensor_names(model_type, path, ending, depth)
        for path, depth in sorted(depths.items())
        for ending, leaf in endings.items()
    }
    stored.expect(name for layers in names.values() for name in layers)
    kernel_leaves: dict[str, dict[str, np.ndarray]] = {path: {} for path in sorted(depths)}
    for (path, leaf), layers in names.items():
        tensors = [stored.tensors[name] for name in layers]
        if len({tensor.shape for tensor in tensors}) > 1:
            raise InputError(
                f"{stored.weights}: {layers[0]} and its like in the other layers differ in shape; "
                f"layers are tuned together here, so use one rank; {AGAIN}"
            )
        kernel_leaves[path][leaf] = np.stack(tensors)
    return kernel_leaves


def _depths(stored: Stored, model_type: str, endings: Mapping[str, str]) -> dict[str, int]:
    """The kernels that there are tensors of, by path, and the layers of their stacks."""
    paths = {_without_layer(p.modules[0]): path for path, p in kernels(model_type).items()}
    present: dict[str, str] = {}
    # By stack and not by kernel, so that a kernel that lacks the last layers is noticed.
    depths: dict[str, int] = {}
    for name in stored.tensors:
        module = name.removeprefix(ROOT)
        module = next((module[: -len(e) - 1] for e in endings if name.endswith(f".{e}")), "")
        path, layer = paths.get(_without_layer(module)), LAYER.search(module)
        # A number of five digits is no layer, and a name would be made for each one below it.
        if path is None or layer is None or len(layer[2]) > 4:
            continue
        present[path] = stack = path.partition("/")[0]
        depths[stack] = max(depths.get(stack, 0), 1 + int(layer[2]))
    if not present:
        path, ending = next(iter(kernels(model_type))), next(iter(endings))
        (example,) = _tensor_names(model_type, path, ending, 1)
        raise InputError(
            f"{stored.weights} holds no tensor of a kernel that is known here, only "
            f"{', '.join(sorted(stored.tensors)) or 'nothing'}; allowed are names such as "
            f"{example}"
        )
    return {path: depths[stack] for path, stack in present.items()}


def _refuse_others(stored: Stored, model_type: str) -> None:
    """Checks that no module is tuned but kernels in the layers: no norm, embedding, or pooler."""
    tuned = tuple(f"{_without_layer(p.modules[0])}." for p in kernels(model_type).values())
    bare = [name.removeprefix(ROOT) for name in stored.tensors]
    others = [name for name in bare if not _without_layer(name).startswith(tuned)]
    if others:
        # One for all layers.
        modules = {_without_layer(name): PART.sub("", name) for name in others}
        raise InputError(
            f"{stored.weights} tunes {', '.join(dict.fromkeys(modules.values()))}, and only "
            "kernels in the layers are tuned here; merge the adapter in PEFT, or train without "
            "them: name them in exclude_modules, and not in modules_to_save"
        )


def _refuse_some_layers(
    stored: Stored, model_type: str, depths: Mapping[str, int], endings: Iterable[str]
) -> None:
    """Checks that every layer up to the last has a tensor of every kernel."""
    modules = [name for path, depth in depths.items() for name in names_of(model_type, path, depth)]
    untuned = [
        module
        for module in modules
        if not any(f"{ROOT}{module}.{ending}" in stored.tensors for ending in endings)
    ]
    if untuned:
        raise InputError(
            f"{stored.weights} tunes only some layers: not {', '.join(sorted(untuned))}; {TOGETHER}"
        )


def target_modules(stored: Stored, model_type: str, layers: Mapping[str, int]) -> tuple[str, ...]:
    """The names that these kernels were asked for by: those of the config, if it lists names.

    Args:
      layers: how many there are of every kernel, by path.
    """
    modules = {path: names_of(model_type, path, count) for path, count in layers.items()}
    untuned = [p.modules[0] for path, p in kernels(model_type).items() if path not in layers]
    listed = stored.values.get("target_modules")
    if not isinstance(listed, list):
        # A pattern, of which only the outcome is known.
        return _shortest(modules.values(), untuned)
    names, present = sorted(map(str, listed)), [name for path in modules.values() for name in path]
    without = [n for n in names if not any(is_called(m, n) for m in present)]
    if stored.values.get("exclude_modules"):
        names, without = [n for n in names if n not in without], []
    stray = [m for m in present if not any(is_called(m, n) for n in names)]
    if without or stray:
        why = [f"target_modules name {', '.join(without)} without a tensor"] if without else []
        why += [f"tensors of {', '.join(stray)} without a target module"] if stray else []
        raise stored.mismatch(" and there are ".join(why))
    if any(is_called(module, name) for module in untuned for name in names):
        return _shortest(modules.values(), untuned)  # exclude_modules took some of a name away.
    return tuple(names)


def _shortest(modules: Iterable[list[str]], untuned: Sequence[str]) -> tuple[str, ...]:
    """Names for kernels and for none of the untuned ones.

    The shortest end of a name that says no layer; all whole names where none is its own.

    Args:
      modules: what every kernel is called, a name a layer.
    """
    names: set[str] = set()
    for layers in modules:
        words = LAYER.split(layers[0], maxsplit=1)[-1].strip(".").split(".")
        ends = [".".join(words[i:]) for i in reversed(range(len(words)))]
        unique = [end for end in ends if not any(is_called(module, end) for module in untuned)]
        names |= set(unique[:1] or layers)
    return tuple(sorted(names))


def fit(leaves: Leaves, shapes: Shapes) -> Leaves:
    """The leaves of kernels in the shapes of a backbone.

    PEFT's files do not tell how many heads the outputs of a kernel belong to: they have one axis
    [H * K] where a kernel here has two, or three where GPT-2's [3, H, K] are one kernel.

    Raises:
      InputError: leaves of fewer layers than the backbone has.
    """
    for path in leaves.keys() & shapes.keys():
        layers, depth = len(leaves[path]), shapes[path][0]
        if layers < depth:
            raise InputError(
                f"the adapter tunes {layers} of {depth} layers of {path}; {TOGETHER}, or use the "
                "backbone that it was trained on"
            )
    return {path: _split(leaf, shapes.get(path, leaf.shape)) for path, leaf in leaves.items()}


def _split(leaf: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    same = leaf.size == math.prod(shape) and len(leaf) == shape[0]
    return leaf.reshape(tuple(shape)) if same else leaf
