"""The one seam between a prompt and a backbone.

Whatever a method trains, it ends as an `Injection`; `prepend` joins it with the text. The mask
grows here and only here, so no later code has to know that a prompt exists.
"""

from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from prompt_jax.backbones.sizes import numbers
from prompt_jax.config import PLACEMENTS, InputError, choose


@jax.tree_util.register_static
class Placement(str):
    """Where virtual tokens stand: `prefix`, `after_bos` or `suffix`; no leaf of a tree.

    Programs are compiled for it, so it is part of a tree's structure.

    Raises:
      InputError: another word.
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
    """Where the virtual tokens stand: `prefix` before the text; `after_bos` behind its first token;
    `suffix` behind its last real token, and so before the padding."""

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
        leaves = flax.traverse_util.flatten_dict(self.sockets, sep="/")
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


def variables(injection: Injection | None, frozen: Any) -> dict[str, Any]:
    """What the backbone's module is applied to."""
    if injection is None:
        return {"params": frozen}
    params = frozen if injection.params is None else injection.params
    return {"params": params} | ({"tuned": injection.sockets} if injection.sockets else {})


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
    rows = 0 if tasks is None else jnp.asarray(tasks)
    return rest._replace(prompt=prompts[rows])


def only_real(injection: Injection, real: Bool[Array, " P"]) -> Injection:
    """The injection with the virtual tokens at which `real` is True, before input and in layers."""
    leaves: dict[str, Any] = flax.traverse_util.flatten_dict(injection.sockets, sep="/")
    for path in [path for path in leaves if path.endswith("prefix/key")]:
        mask = jnp.broadcast_to(real, (leaves[path].shape[0], len(real)))
        leaves[path.removesuffix("key") + "mask"] = mask
    sockets = flax.traverse_util.unflatten_dict(leaves, sep="/")
    mask = None if injection.prompt is None else real
    return injection._replace(prompt_mask=mask, sockets=sockets)


def prepend(
    injection: Injection | None,
    embeddings: Float[Array, "B T D"],
    mask: Bool[Array, "B T"],
) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
    """Joins the virtual tokens with every text of the batch, S = P + T.

    Args:
      injection: None is the plain backbone: the text comes back as it is.
      mask: True where a token is real; padding stands on the right.

    Raises:
      InputError: the prompt and the embeddings differ in width.
    """
    if injection is None:
        return embeddings, mask
    batch, length, width = embeddings.shape
    if injection.shift is not None:
        shift = injection.shift[..., :length, :].astype(embeddings.dtype)
        shift = jnp.broadcast_to(shift, (batch, *shift.shape[-2:]))
        embeddings = embeddings.at[:, : shift.shape[1]].add(shift)
    if injection.prompt is None:
        return embeddings, mask
    if injection.prompt.shape[-1] != width:
        raise InputError(
            f"the prompt is {injection.prompt.shape[-1]} wide and the backbone {width}; "
            f"use the backbone that the prompt was trained on"
        )
    virtual = injection.prompt.shape[-2]
    prompt = jnp.broadcast_to(injection.prompt.astype(embeddings.dtype), (batch, virtual, width))
    real = True if injection.prompt_mask is None else injection.prompt_mask
    prompt_mask = jnp.broadcast_to(real, (batch, virtual))
    joined = jnp.concatenate([prompt, embeddings], axis=1)
    joined_mask = jnp.concatenate([prompt_mask, mask], axis=1)
    if injection.placement == "prefix":
        return joined, joined_mask
    order = _order(_tokens_before(injection, mask), virtual, length)
    return (
        jnp.take_along_axis(joined, order[:, :, None], axis=1),
        jnp.take_along_axis(joined_mask, order, axis=1),
    )


def _tokens_before(injection: Injection, mask: Bool[Array, "B T"]) -> Int[Array, " B"]:
    """How many tokens of every text stand before the prompt."""
    tokens = mask.sum(1)
    return jnp.minimum(tokens, 1) if injection.placement == "after_bos" else tokens


def _order(before: Array, virtual: int, length: int) -> Array:
    """[B, S] positions in [prompt, text] that put `before` text tokens ahead of the prompt."""
    position = jnp.arange(virtual + length)[None, :]
    before = before[:, None]
    leading = position < before
    in_prompt = (position >= before) & (position < before + virtual)
    return jnp.where(leading, position + virtual, jnp.where(in_prompt, position - before, position))


def text_states(
    injection: Injection | None,
    states: Float[Array, "B S D"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B T D"]:
    """The states of the text tokens among those of a text that `prepend` joined with a prompt."""
    if injection is None or not injection.input_tokens:
        return states
    virtual = injection.input_tokens
    if injection.placement == "prefix":
        return states[:, virtual:]
    text = jnp.arange(mask.shape[1])[None, :]
    before = _tokens_before(injection, mask)
    places = jnp.where(text < before[:, None], text, text + virtual)
    return jnp.take_along_axis(states, places[:, :, None], axis=1)


def text_mask(
    injection: Injection | None,
    embeddings: Float[Array, "B T D"],
    mask: Bool[Array, "B T"],
) -> Bool[Array, "B S"]:
    """Where the real tokens of the text stand once `prepend` has joined it with a prompt."""
    if injection is None or not injection.input_tokens:
        return mask
    hidden = injection._replace(prompt_mask=jnp.zeros(injection.input_tokens, bool))
    return prepend(hidden, embeddings, mask)[1]


def read_in(
    module: Any,
    frozen: Any,
    injection: Injection | None,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> tuple[dict[str, Any], Float[Array, "B S D"], Bool[Array, "B S"]]:
    """What a model is applied to, and the embeddings and mask that it reads."""
    given = variables(injection, frozen)
    embeddings = module.apply(given, tokens, method="embed")
    return given, *prepend(injection, embeddings, mask)
