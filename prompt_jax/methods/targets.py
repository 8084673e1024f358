"""The places in a backbone that methods mean, by the names that Hugging Face has for kernels."""

import difflib
from collections.abc import Sequence

import jax
from jaxtyping import Array

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.sockets import Projection
from prompt_jax.config import InputError
from prompt_jax.trees import Tuned


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
      roles: among `query`, `key`, `value` and `feedforward`, the last kernel of that.
    """
    names = backbone.family.kernel_names(backbone.model_type)
    return tuple(dict.fromkeys(names[role] for role in roles))


def by_place(tree: Tuned) -> dict[tuple[str, ...], dict[str, Array]]:
    """The leaves of every place in a tree, by its path."""
    places: dict[tuple[str, ...], dict[str, Array]] = {}
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
