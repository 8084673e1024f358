"""Which kernels `target_modules` mean, by the names that PEFT and Hugging Face give them."""

import difflib
from collections.abc import Sequence

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.sockets import Projection
from prompt_jax.config import InputError


def targets(backbone: Backbone, modules: Sequence[str]) -> dict[str, Projection]:
    """The kernels whose name is one of `modules`, or ends in one behind a dot.

    Names with layers in them are as good, as long as all layers of a kernel are named.

    Raises:
      InputError: a name that matches nothing, or names of only some layers of a kernel.
    """
    projections = backbone.sockets.projections
    for module in modules:
        if not any(_is(name, module) for place in projections.values() for name in place.modules):
            raise InputError(_nothing(module, projections, backbone.name))
    chosen = {}
    for path, place in sorted(projections.items()):
        unnamed = [n for n in place.modules if not any(_is(n, module) for module in modules)]
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


def first_of(backbone: Backbone, choices: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The first choice of names of which every one is a kernel's: PEFT's for the family.

    Raises:
      InputError: no choice is.
    """
    modules = [name for place in backbone.sockets.projections.values() for name in place.modules]
    for choice in choices:
        if all(any(_is(name, wanted) for name in modules) for wanted in choice):
            return tuple(choice)
    last = sorted({name.rpartition(".")[2] for name in modules})
    raise InputError(
        f"target_modules is empty and none are known for backbone {backbone.name!r}; name some of "
        f"{', '.join(last)}"
    )


def _is(name: str, module: str) -> bool:
    return name == module or name.endswith(f".{module}")


def _nothing(module: str, projections: dict[str, Projection], name: str) -> str:
    last = sorted({place.modules[0].rpartition(".")[2] for place in projections.values()})
    near = difflib.get_close_matches(module, last, n=1)
    hint = f" Perhaps you meant {near[0]!r}?" if near else ""
    return (
        f"target_modules name {module!r} matches nothing in backbone {name!r}; "
        f"allowed: {', '.join(last)}.{hint}"
    )
