"""What a prompt puts into a frozen model, whatever method trained it."""

from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from prompt_jax.backbones.sizes import numbers
from prompt_jax.config import PLACEMENTS, InputError, choose
from prompt_jax.trees import by_path


@jax.tree_util.register_static
class Placement(str):
    """Where virtual tokens stand, one of `PLACEMENTS`; no leaf of a tree.

    Programs are compiled for it, so it is part of a tree's structure.
    """

    __slots__ = ()

    def __new__(cls, name: str = "prefix") -> "Placement":
        choose("placement", name, PLACEMENTS)
        return super().__new__(cls, name)


class Injection(NamedTuple):
    """What a method puts into a frozen model; every part may be missing."""

    prompt: Float[Array, "P D"] | Float[Array, "B P D"] | None = None
    """Virtual tokens, one prompt for all rows or one for each."""
    prompt_mask: Bool[Array, " P"] | Bool[Array, "B P"] | None = None
    """False at padding virtual tokens of a shorter prompt; None when all are real."""
    shift: Float[Array, "T D"] | Float[Array, "B T D"] | None = None
    """Added to the embeddings of the first T text tokens."""
    sockets: dict[str, Any] = {}
    """The tree of `prompt_jax.backbones.sockets`."""
    params: Any = None
    """A whole tree in place of the frozen one."""
    head: dict[str, Any] | None = None
    """The leaves of a trained head on top; None where the model answers in its own words."""
    pool_prompt: Bool[Array, ""] | None = None
    """Whether a head may read a virtual token, as in PEFT, and not the text's own only."""
    placement: Placement = Placement()
    """Where the virtual tokens stand, see `prompt_jax.forward.places`."""
    places: Int[Array, "*B"] | None = None
    """For rows that differ in it, the number of each one's placement in `PLACEMENTS`."""

    def __repr__(self) -> str:
        parts = [name for name, part in self._asdict().items() if jax.tree.leaves(part)]
        return f"<Injection: {', '.join(parts) or 'nothing'}; {numbers(self)}>"

    @property
    def input_tokens(self) -> int:
        """P, the virtual tokens in the input."""
        return 0 if self.prompt is None else self.prompt.shape[-2]

    @property
    def positions(self) -> int:
        """Positions that it takes before the text: virtual tokens and, if any, a prefix."""
        leaves = by_path(self.sockets)
        prefixes = [leaf.shape[-3] for path, leaf in leaves.items() if path.endswith("prefix/key")]
        return self.input_tokens + max(prefixes, default=0)


class TaskPrompts(NamedTuple):
    """The prompts of N tasks; `for_tasks` picks one, or one a row. No model reads them all."""

    prompts: Float[Array, "N P D"]
    rest: Injection
    """What all tasks share: the placement, a head."""

    @property
    def input_tokens(self) -> int:
        """P, the virtual tokens in the input."""
        return self.prompts.shape[-2]

    @property
    def positions(self) -> int:
        """Positions that it takes before the text."""
        return self.input_tokens + self.rest.positions


def for_tasks(
    injection: Injection | TaskPrompts, tasks: Int[ArrayLike, "*B"] | int | None
) -> Injection:
    """The prompt of one task for all rows, or that of every row's own task.

    An `Injection`, which is the same for all tasks, comes back as it is.

    Args:
      tasks: numbers from 0 to N - 1; None where there is one task only.

    Raises:
      InputError: there are several tasks, and none is named.
    """
    if isinstance(injection, Injection):
        return injection
    prompts, rest = injection
    if tasks is None and len(prompts) > 1:
        raise InputError(
            f"the prompt holds those of {len(prompts)} tasks; name one, 0 to "
            f"{len(prompts) - 1}: --task-id, or task_ids in Python"
        )
    # A number picks [P, D], which no row copies before `prepend`; one a row gathers [B, P, D].
    rows = 0 if tasks is None else jnp.asarray(tasks)
    return rest._replace(prompt=prompts[rows])


def only_real(injection: Injection, real: Bool[Array, " P"]) -> Injection:
    """The injection with the virtual tokens at which `real` is True, before input and in layers."""
    leaves: dict[str, Any] = flax.traverse_util.flatten_dict(injection.sockets, sep="/")
    for path in [path for path in leaves if path.endswith("prefix/key")]:
        # With L in front, as the scan over layers slices every leaf of a socket.
        mask = jnp.broadcast_to(real, (leaves[path].shape[0], len(real)))
        leaves[path.removesuffix("key") + "mask"] = mask
    sockets = flax.traverse_util.unflatten_dict(leaves, sep="/")
    mask = None if injection.prompt is None else real
    return injection._replace(prompt_mask=mask, sockets=sockets)
