"""N prompts trained at once over one frozen model, in one program.

`vmap` over argument 0: each member has its own prompt, optimizer state, rows and rate, and the
model multiplies the rows of all of them at once. A member's numbers are those it would have alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from prompt_jax.config import Config, InputError, MethodConfig, TrainConfig
from prompt_jax.data import Batch, Batches
from prompt_jax.losses import Loss
from prompt_jax.sharding import (
    AXES,
    RULES,
    Grid,
    check_rows,
    on_host,
    put,
    row_ways,
    whole,
    whole_rows,
)
from prompt_jax.train import Aux, Member, State, run_steps, train_step
from prompt_jax.trees import Mesh, Tree, Tuned

APART = PartitionSpec("data")
"""The first axis shared out over groups of devices, each of which has one copy of the model."""
AfterStep = Callable[[int, State | None, dict[str, np.ndarray]], None]


def stack(trees: Sequence[Tree]) -> Tree:
    """One tree with N in front of every leaf, on the host."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def member(trees: Tree, index: int) -> Tree:
    """The tree of one member among those of N."""
    return jax.tree.map(lambda leaf: leaf[index], trees)


def length_of(method: MethodConfig) -> int:
    """Virtual tokens of a method; 0 of one that has none."""
    return getattr(method, "num_virtual_tokens", 0)


def check_lengths(methods: Sequence[MethodConfig]) -> None:
    """Checks that members of different lengths can share a program."""
    first = methods[0]
    if len({length_of(method) for method in methods}) == 1:
        return
    if first.virtual_axis is None:
        raise InputError(
            f"members of different num_virtual_tokens are padded on the left, which {first.kind} "
            "as configured does not allow; use one length, or prompt_tuning or prefix_tuning "
            'without a projection, at placement="prefix" in the encoder'
        )


def padded(tuned: Tuned, method: MethodConfig, length: int) -> Tuned:
    """A tuned tree with virtual tokens of zeros on the left, as many as `length` in all."""
    missing = length - length_of(method)
    if not missing:
        return tuned
    axis = _virtual_axis(method)

    def pad(leaf: Array | np.ndarray) -> np.ndarray:
        widths = [(0, 0)] * np.ndim(leaf)
        widths[axis] = (missing, 0)
        # Zeros have no gradient behind a mask, and no decay makes them other than zero.
        return np.pad(np.asarray(leaf), widths)

    return jax.tree.map(pad, tuned)


def cut(tuned: Tuned, method: MethodConfig, length: int) -> Tuned:
    """A tuned tree without the virtual tokens that `padded` added."""
    missing = length - length_of(method)
    if not missing:
        return tuned
    # The axis is counted from the right, and so is the same with N in front.
    place = (Ellipsis, slice(missing, None), *[slice(None)] * (-_virtual_axis(method) - 1))
    return jax.tree.map(lambda leaf: leaf[place], tuned)


def _virtual_axis(method: MethodConfig) -> int:
    if method.virtual_axis is None:
        raise InputError(f"trees of {method.kind} as configured have one length")
    return method.virtual_axis


def check_together(config: Config, count: int) -> None:
    """Checks that an experiment asks for nothing that one prompt alone can have.

    Args:
      count: prompts that train together.
    """
    for name, off in (("pull", 0.0), ("patience", None)):
        if getattr(config.train, name) != off:
            raise InputError(
                f"train.{name} is for one prompt, and a population trains {count}; leave it out"
            )
    if config.data.mixture:
        raise InputError(
            "each member of a population has one task, and data.mixture names more; leave it out"
        )


def members_of(
    configs: Sequence[TrainConfig], methods: Sequence[MethodConfig], length: int
) -> Member:
    """What N members have of their own.

    Args:
      length: of the longest, which the others are padded to.
    """
    lengths = np.array([[length_of(method)] for method in methods])
    real = None
    if (lengths != length).any():
        # Padding is on the left, where it moves no virtual token away from the text.
        real = np.arange(length)[None] >= length - lengths
    return Member(
        learning_rate=np.array([config.learning_rate for config in configs], np.float32),
        weight_decay=np.array([config.weight_decay for config in configs], np.float32),
        seed=np.array([config.seed for config in configs], np.uint32),
        real=real,
    )


def compile_population_step(
    loss: Loss, config: TrainConfig, mesh: Mesh | None = None
) -> jax.stages.Wrapped:
    """`step(states, frozen, batches, members)`, jitted: N prompts, each as in `train_step`.

    All arguments but the frozen tree have N in front. The states are donated.

    Args:
      mesh: that of the backbone; arguments are to be where `layout` says.
    """

    def alone(frozen: Tree, state: State, batch: Batch, member: Member) -> tuple[State, Aux]:
        return train_step(loss, config, state, frozen, batch, member)

    def step(states: State, frozen: Tree, batches: Batch, members: Member) -> tuple[State, Aux]:
        # The frozen tree has no member's axis: one copy, and one product with the rows of all.
        mapped = (states, batches, members)
        if len(states.step) > 1:
            return jax.vmap(alone, in_axes=(None, 0, 0, 0))(frozen, *mapped)
        # An axis of one costs small batches a third of their speed on CPU.
        only = alone(frozen, *jax.tree.map(lambda leaf: leaf[0], mapped))
        return jax.tree.map(lambda leaf: leaf[None], only)

    if mesh is None:
        return jax.jit(step, donate_argnums=0)

    # All axes where the others are of one: XLA runs no kernel where it is left an axis to split.
    axes = {"data"} if shares_model(mesh) else set(AXES)
    specs = {"in_specs": (APART, PartitionSpec(), APART, APART), "out_specs": APART}
    in_groups = jax.shard_map(step, mesh=mesh, axis_names=axes, check_vma=False, **specs)

    def spread(states: State, frozen: Tree, batches: Batch, members: Member) -> tuple[State, Aux]:
        count = len(states.step)
        run = in_groups if apart(count, mesh) else step
        places = layout(count, mesh).members, whole(mesh)
        # States stay where their members are; the compiler, left to itself, might gather them.
        return jax.lax.with_sharding_constraint(run(states, frozen, batches, members), places)

    return jax.jit(spread, donate_argnums=0)


class Layout(NamedTuple):
    """Where the arrays of a population are on a mesh."""

    members: NamedSharding
    """States, and what members have of their own."""
    rows: NamedSharding
    """Batches, [N, B, T]."""


def layout(count: int, mesh: Mesh) -> Layout:
    """Where the arrays of so many members are."""
    if apart(count, mesh):
        # Groups of devices along `data` have whole members, and share no gradient.
        specs = APART, PartitionSpec("data", "fsdp")
    else:
        # Trees of all members on all devices, as that of one prompt is: they are small. The rows
        # of each are split as those of one prompt are, and what a model constrains inside of
        # vmap says nothing of the axis of members.
        specs = PartitionSpec(), PartitionSpec(None, RULES["batch"])
    return Layout(*(NamedSharding(mesh, spec) for spec in specs))


def apart(count: int, mesh: Grid) -> bool:
    """Whether devices along `data` share out so many members; else they share the rows of all."""
    return mesh.shape["data"] > 1 and count % mesh.shape["data"] == 0


def shares_model(mesh: Grid | None) -> bool:
    """Whether devices share a model."""
    return mesh is not None and mesh.shape["fsdp"] * mesh.shape["tensor"] > 1


def check_members(rows: int, mesh: Grid | None) -> None:
    """Checks that a step of each member, of so many rows, divides over the devices that have it."""
    check_rows(rows, mesh, ("fsdp",))


def filled(count: int, rows: int, mesh: Grid | None) -> int:
    """Members that a program is for: more where each device along `data` is to have as many.

    Args:
      rows: of a step of each; where they divide over all devices, these share the rows of all.
    """
    if shares_model(mesh) and rows % row_ways(mesh) == 0:
        return count
    return whole_rows(count, mesh, ("data",))


def stacked_batches(members: Sequence[Batches], steps: Iterable[np.ndarray]) -> Iterator[Batch]:
    """The batches of N members at each one's own step, [N, B, T], padded to the longest.

    Args:
      steps: for every step of the population, those of its members.
    """
    for numbers in steps:
        yield joined([batches[int(step)] for batches, step in zip(members, numbers, strict=True)])


def joined(batches: Sequence[Batch]) -> Batch:
    """N batches as one, padded to the longest input and target."""

    def join(*leaves: np.ndarray) -> np.ndarray:
        shape = (len(leaves), *np.max([leaf.shape for leaf in leaves], axis=0))
        # Zeros are False in a mask, so that what is filled up counts nowhere.
        padded = np.zeros(shape, leaves[0].dtype)
        for rows, leaf in zip(padded, leaves, strict=True):
            rows[tuple(map(slice, leaf.shape))] = leaf
        return padded

    return jax.tree.map(join, *batches)


def fit_population(
    step_fn: Callable[..., tuple[State, Aux]],
    states: State,
    frozen: Tree,
    batches: Iterable[Batch],
    members: Member,
    *,
    after_step: AfterStep | None = None,
    mesh: Mesh | None = None,
) -> State:
    """Runs a step of all members for every batch and hands each result to `after_step`.

    A member whose loss is no longer a number harms no other; what is to become of it is up to
    `after_step`, which is given the number of steps of this call, the states behind the last one
    and else None, and the metrics [N] of all members by name.

    Args:
      step_fn: of `compile_population_step`; it compiles once for N and the lengths of a batch.
      mesh: that of the backbone; see `layout`.
    """
    place = None if mesh is None else layout(len(states.step), mesh)
    if place is not None:
        states, members = (put(tree, place.members) for tree in (states, members))

    def step(states: State, batch: Batch) -> tuple[State, Aux]:
        batch = batch if place is None else put(batch, place.rows)
        return step_fn(states, frozen, batch, members)

    def report(step: int, states: State | None, metrics: Aux) -> bool:
        if after_step is not None:
            after_step(step, states, on_host(metrics))
        return False

    # No step is due: only the last states are wanted, and the device waits for no number.
    return run_steps(step, states, batches, report, due=lambda _: False)
