"""The train step and the loop around it: pure core, no disk.

`jax.value_and_grad` sees argument 0 of the loss, the tuned tree, and nothing else; the frozen tree
is an argument of the compiled step and is never donated.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from prompt_jax.backbones.sizes import numbers
from prompt_jax.config import TrainConfig
from prompt_jax.losses import Loss
from prompt_jax.methods import CLASSIFIER, FIXED
from prompt_jax.sharding import place_rows, replicate, whole
from prompt_jax.trees import Mesh, Tree, Tuned

Aux = dict[str, Array]
"""What a loss tells beside its mean, or a step of itself, by name."""
S = TypeVar("S")
B = TypeVar("B")
M = TypeVar("M")
METHOD = "method"
T5X_RESUME_STEP = 1_100_000
DEFAULT_RATE = 0.3  # Lester et al.'s, where no method says another.


class State(NamedTuple):
    """All that training changes; float32, and a few thousand parameters."""

    step: Array
    tuned: Tuned
    opt_state: Tree

    def __repr__(self) -> str:
        trees = f"tuned {numbers(self.tuned)}; optimizer {numbers(self.opt_state)}"
        return f"<State at step {self.step}: {trees}>"


class Member(NamedTuple):
    """What differs between prompts that train at once: of one of them, or of N with N in front."""

    learning_rate: Array | np.ndarray
    """The peak of its schedule."""
    weight_decay: Array | np.ndarray
    seed: Array | np.ndarray
    """The seed of its dropout."""
    real: Array | np.ndarray | None = None
    """[P], False at padding where it is shorter than the longest; None where all are as long."""


class DivergedError(RuntimeError):
    """The loss or the gradient is no longer a number."""


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Linear warm-up, then constant or a decay to zero at the last step."""
    rate = DEFAULT_RATE if config.learning_rate is None else config.learning_rate
    rest = max(config.steps - config.warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(rate),
        "linear": optax.linear_schedule(rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(rate, rest),
    }[config.schedule]
    if not config.warmup_steps:
        return after
    # Counted from one, so that the first step already moves the prompt.
    # A warm-up of one step is at its peak at once, and optax wants at least one step.
    ramp = optax.linear_schedule(rate / config.warmup_steps, rate, config.warmup_steps - 1 or 1)
    return optax.join_schedules([ramp, after], [config.warmup_steps])


def rate_of(config: TrainConfig, member: Member | None = None) -> optax.Schedule:
    """`learning_rate`, with a member's own peak: every schedule is in proportion to its peak."""
    if member is None:
        return learning_rate(config)
    unit = learning_rate(dataclasses.replace(config, learning_rate=1.0))
    return lambda step: member.learning_rate * unit(step)


def optimizer(
    config: TrainConfig, tuned: Tuned, member: Member | None = None
) -> optax.GradientTransformation:
    """The optimizer that `config.optimizer` names, AdamW for a head, none for what is fixed.

    `adafactor` is Lester et al. 2021: no parameter scaling, no factoring, decay decoupled from the
    learning rate. `adafactor_t5x` counts steps from 1.1M as T5X does when it resumes a pretrained
    checkpoint: its second moments hardly decay, so every step has RMS `learning_rate`.

    Args:
      member: what a member of a population has instead of the config's.
    """
    kinds = _kinds(tuned)
    present = set(jax.tree.leaves(kinds))
    if present == {METHOD}:
        return _optimizer(config, member)
    rate = config.head_learning_rate
    small = dataclasses.replace(config, optimizer="adamw", learning_rate=rate)
    parts: dict[Hashable, optax.GradientTransformation] = {METHOD: _optimizer(config, member)}
    # A gradient of zero is not enough: weights decay without one.
    beside = {CLASSIFIER: _optimizer(small), FIXED: optax.set_to_zero()}
    parts |= {kind: change for kind, change in beside.items() if kind in present}
    return optax.partition(parts, kinds)


def _kinds(tree: Tree) -> Tree:
    """Whose the parts of a tuned tree are: the method's, a head's, or nobody's to change.

    One label stands for all leaves of a branch that are of one kind.
    """
    if not isinstance(tree, dict):
        return METHOD
    kinds = {
        name: name if name in (CLASSIFIER, FIXED) else _kinds(branch)
        for name, branch in tree.items()
    }
    return METHOD if all(kind == METHOD for kind in kinds.values()) else kinds


def _optimizer(config: TrainConfig, member: Member | None = None) -> optax.GradientTransformation:
    rate, decay, clip = rate_of(config, member), config.weight_decay, 1.0
    if member is not None:
        decay = jnp.asarray(member.weight_decay)
        # Adafactor clips the root mean square of an update, which here also counts padding, whose
        # update is zero: of the numbers that are real it would let pass more than for one prompt.
        clip = 1.0 if member.real is None else jnp.sqrt(member.real.mean())
    if config.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=decay)
    return optax.adafactor(
        rate,
        factored=False,
        multiply_by_parameter_scale=False,
        clipping_threshold=clip,
        # The decay of second moments is 1 - step ** -0.8, as in Shazeer and Stern 2018.
        decay_rate=0.8,
        # optax subtracts the offset from the step.
        decay_offset=-T5X_RESUME_STEP if config.optimizer == "adafactor_t5x" else 0,
        weight_decay_rate=decay,
    )


def start(tuned: Tree, config: TrainConfig) -> State:
    """The state before the first step.

    The tuned tree is copied, because the step donates its state and the caller's stays alive.
    """
    tuned = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), tuned)
    return State(jnp.zeros((), jnp.int32), tuned, optimizer(config, tuned).init(tuned))


def train_step(
    loss: Loss,
    config: TrainConfig,
    state: State,
    frozen: Tree,
    batch: Tree,
    member: Member | None = None,
) -> tuple[State, Aux]:
    """One optimizer step on the tuned tree."""
    # Drawn from the step, not carried along, so that a resumed run has the same. A model and a
    # method without dropout do not look at it.
    seed = config.seed if member is None else member.seed
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    if member is not None and member.real is not None:
        loss = functools.partial(loss, real=member.real)
    (mean, _), grads = _gradient(loss, config.accumulate, state.tuned, frozen, batch, key)
    # Made while the step is traced, as the rate and the decay of a member are traced too.
    change = optimizer(config, state.tuned, member).update
    updates, opt_state = change(grads, state.opt_state, state.tuned)
    tuned: Tree = optax.apply_updates(state.tuned, updates)
    metrics = {
        "loss": mean,
        "grad_norm": optax.tree.norm(grads),
        "learning_rate": rate_of(config, member)(state.step),
    }
    return State(state.step + 1, tuned, opt_state), metrics


def compile_step(loss: Loss, config: TrainConfig, mesh: Mesh | None = None) -> jax.stages.Wrapped:
    """`step(state, frozen, batch)`, jitted: the state is donated, the frozen tree never."""
    step = functools.partial(train_step, loss, config)
    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    # The state leaves a step as it came, whole on every device. Left to itself the compiler may
    # split it, and the next step, which is then given other shardings, would be compiled anew.
    return jax.jit(step, donate_argnums=0, out_shardings=whole(mesh))


def _gradient(
    loss: Loss, parts: int, tuned: Tuned, frozen: Tree, batch: Tree, key: Array
) -> tuple[tuple[Array, Aux], Tuned]:
    """Loss and gradient over a batch, or over its micro-batches one after the other."""
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return value_and_grad(tuned, frozen, batch, key)

    def add(total: Tree, part: tuple[Tree, Array]) -> tuple[Tree, None]:
        batch, index = part
        # A key of its own, or all micro-batches would drop the same places.
        part_key = jax.random.fold_in(key, index)
        (mean, aux), grads = value_and_grad(tuned, frozen, batch, part_key)
        # Means are weighted by their tokens, so the sum is the mean over the whole batch.
        weighted = jax.tree.map(lambda leaf: leaf * aux["tokens"], (mean, grads))
        return jax.tree.map(jnp.add, total, (weighted, aux["tokens"])), None

    split = jax.tree.map(lambda a: a.reshape(parts, a.shape[0] // parts, *a.shape[1:]), batch)
    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, tuned))
    none = jnp.zeros((), jnp.int32)
    # A scan holds the activations of one micro-batch at a time, and compiles the model once.
    ((mean, grads), tokens), _ = jax.lax.scan(add, (zeros, none), (split, jnp.arange(parts)))
    mean, grads = jax.tree.map(lambda leaf: leaf / jnp.maximum(tokens, 1), (mean, grads))
    return (mean, {"tokens": tokens}), grads


def run_steps(
    step_fn: Callable[[S, B], tuple[S, M]],
    state: S,
    batches: Iterable[B],
    report: Callable[[int, S | None, M], bool],
    due: Callable[[int], bool],
    step: int = 0,
) -> S:
    """Runs a step for every batch and reports on each while the device is at the next one.

    So the device never waits for the host to read numbers, but at steps that are due.

    Args:
      step_fn: from state and batch to state and metrics; it may donate the state.
      report: is given the number of finished steps, the state where that step is due or the last
        one, else None, since the next step has taken it, and the metrics on the device. When it
        returns True for a step that is due, this ends.
      due: whether a step's state is needed; asked once for each, in order.
      step: how many are finished.
    """
    late = None
    for batch in batches:
        state, metrics = step_fn(state, batch)
        step += 1
        # Reading numbers waits for the step that makes them; the device has the next one by now.
        if late is not None:
            report(*late)
        late = None
        if not due(step):
            late = (step, None, metrics)
        elif report(step, state, metrics):
            break
    if late is not None:
        report(step, state, late[2])
    return state


def fit(
    loss: Loss,
    state: State,
    frozen: Tree,
    batches: Iterable[Tree],
    config: TrainConfig,
    *,
    after_step: Callable[[int, State | None, dict[str, float]], bool] | None = None,
    due: Callable[[int], bool] | None = None,
    step_fn: Callable[..., tuple[State, Aux]] | None = None,
    mesh: Mesh | None = None,
) -> State:
    """Runs a step for every batch and hands each result to `after_step`.

    Evaluation, checkpoints and progress live in `after_step`, which is called with the number of
    finished steps, the state and the metrics, and ends training by returning True. It must not
    keep the state's arrays: the next step donates them.

    Args:
      batches: the batches that are still to come; the caller slices them when resuming.
      due: whether `after_step` needs the state of a step, see `run_steps`; at others it is called
        with None instead, when the next one is under way. None: it needs all, which costs time on
        an accelerator.
      step_fn: a step from `compile_step`, to share one compilation between calls.
      mesh: that of the backbone; every device has the state, and its part of a batch's rows.

    Raises:
      DivergedError: the loss, the gradient or a state that is due is NaN or infinite. At the latest
        the step after it finds that out, and no such state gets to `after_step`.
    """
    compiled = step_fn or compile_step(loss, config, mesh)
    if due is None:
        due = lambda _: after_step is not None  # noqa: E731

    def step(state: State, batch: Tree) -> tuple[State, Aux]:
        return compiled(state, frozen, place_rows(batch, mesh))

    def report(step: int, state: State | None, metrics: Aux) -> bool:
        # One transfer for all, as each one waits for the device.
        row = {name: float(value) for name, value in jax.device_get(metrics).items()}
        _check_finite(step, state, row, frozen)
        return bool(after_step and after_step(step, state, row))

    # As a step gives it back, or the second step would be compiled anew for other shardings.
    return run_steps(step, replicate(state, mesh), batches, report, due, int(state.step))


@jax.jit
def is_finite(tree: Tree) -> Array:
    """Whether all numbers of a tree are."""
    # One number comes to the host, and not the tree.
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _check_finite(step: int, state: State | None, metrics: dict[str, float], frozen: Tree) -> None:
    numbers = np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
    if numbers and (state is None or is_finite(state.tuned)):
        return
    cause = f"loss {metrics['loss']} and gradient norm {metrics['grad_norm']}"
    if numbers:
        cause = "trained parameters that are not finite"
    dtype = jax.tree.leaves(frozen)[0].dtype
    raise DivergedError(
        f"{cause} at step {step} "
        f"(learning rate {metrics['learning_rate']:g}, frozen weights in {dtype}); the last good "
        "checkpoint is kept. Try a lower train.learning_rate than that of this run, "
        "train.warmup_steps, or frozen.dtype float32"
    )
