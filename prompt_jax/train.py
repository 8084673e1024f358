"""The train step and the loop around it: pure core, no disk.

`jax.value_and_grad` sees argument 0 of the loss, the tuned tree, and nothing else; the frozen tree
is an argument of the compiled step and is never donated.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from prompt_jax.backbones.sizes import numbers
from prompt_jax.config import TrainConfig
from prompt_jax.losses import Loss
from prompt_jax.methods import CLASSIFIER
from prompt_jax.sharding import place_rows, replicate, whole

T5X_RESUME_STEP = 1_100_000
DEFAULT_RATE = 0.3  # Lester et al.'s, where no method says another.


class State(NamedTuple):
    """All that training changes; float32, and a few thousand numbers."""

    step: Array
    tuned: Any
    opt_state: Any

    def __repr__(self) -> str:
        trees = f"tuned {numbers(self.tuned)}; optimizer {numbers(self.opt_state)}"
        return f"<State at step {self.step}: {trees}>"


class Member(NamedTuple):
    """What one of several prompts that train at once has of its own; with N in front, of all."""

    learning_rate: Any
    """Its peak."""
    weight_decay: Any
    seed: Any
    """Of dropout."""
    real: Any = None
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
    ramp = optax.linear_schedule(rate / config.warmup_steps, rate, config.warmup_steps - 1 or 1)
    return optax.join_schedules([ramp, after], [config.warmup_steps])


def rate_of(config: TrainConfig, own: Member | None = None) -> optax.Schedule:
    """`learning_rate`, with a member's own peak: every schedule is in proportion to its peak."""
    if own is None:
        return learning_rate(config)
    unit = learning_rate(dataclasses.replace(config, learning_rate=1.0))
    return lambda step: own.learning_rate * unit(step)


def optimizer(
    config: TrainConfig, tuned: Any, own: Member | None = None
) -> optax.GradientTransformation:
    """The optimizer that `config.optimizer` names, and AdamW for a head beside the method.

    `adafactor` is Lester et al. 2021: no parameter scaling, no factoring, decay decoupled from the
    learning rate. `adafactor_t5x` counts steps from 1.1M as T5X does when it resumes a pretrained
    checkpoint: its second moments hardly decay, so every step has RMS `learning_rate`.

    Args:
      own: what a member of a population has instead of the config's.
    """
    if CLASSIFIER in tuned:
        rate = config.head_learning_rate
        small = dataclasses.replace(config, optimizer="adamw", learning_rate=rate)
        parts: dict[Any, Any] = {"method": _optimizer(config, own), CLASSIFIER: _optimizer(small)}
        kinds = {name: name if name == CLASSIFIER else "method" for name in tuned}
        return optax.partition(parts, kinds)
    return _optimizer(config, own)


def _optimizer(config: TrainConfig, own: Member | None = None) -> optax.GradientTransformation:
    rate, decay, clip = rate_of(config, own), config.weight_decay, 1.0
    if own is not None:
        decay = own.weight_decay
        # The mean square of an update counts padding, whose update is zero.
        clip = 1.0 if own.real is None else jnp.sqrt(own.real.mean())
    if config.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=decay)
    return optax.adafactor(
        rate,
        factored=False,
        multiply_by_parameter_scale=False,
        clipping_threshold=clip,
        decay_rate=0.8,
        # optax subtracts the offset from the step.
        decay_offset=-T5X_RESUME_STEP if config.optimizer == "adafactor_t5x" else 0,
        weight_decay_rate=decay,
    )


def start(tuned: Any, config: TrainConfig) -> State:
    """The state before the first step.

    The tuned tree is copied, because the step donates its state and the caller's stays alive.
    """
    tuned = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), tuned)
    return State(jnp.zeros((), jnp.int32), tuned, optimizer(config, tuned).init(tuned))


def train_step(
    loss: Loss,
    config: TrainConfig,
    state: State,
    frozen: Any,
    batch: Any,
    own: Member | None = None,
) -> tuple[State, dict[str, Array]]:
    """One optimizer step on the tuned tree."""
    # A model and a method without dropout do not look at it.
    seed = config.seed if own is None else own.seed
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    if own is not None and own.real is not None:
        loss = functools.partial(loss, real=own.real)
    (mean, _), grads = _gradient(loss, config.accumulate, state.tuned, frozen, batch, key)
    change = optimizer(config, state.tuned, own).update
    updates, opt_state = change(grads, state.opt_state, state.tuned)
    tuned = optax.apply_updates(state.tuned, updates)
    metrics = {
        "loss": mean,
        "grad_norm": optax.tree.norm(grads),
        "learning_rate": rate_of(config, own)(state.step),
    }
    return State(state.step + 1, tuned, opt_state), metrics


def compile_step(loss: Loss, config: TrainConfig, mesh: Any = None) -> Callable[..., Any]:
    """`step(state, frozen, batch)`, jitted: the state is donated, the frozen tree never.

    On a mesh the state leaves a step as it came, whole on every device.
    """
    step = functools.partial(train_step, loss, config)
    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=whole(mesh))


def _gradient(loss: Loss, parts: int, tuned: Any, frozen: Any, batch: Any, key: Any) -> Any:
    """Loss and gradient over a batch, or over its micro-batches one after the other."""
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return value_and_grad(tuned, frozen, batch, key)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        batch, index = part
        part_key = jax.random.fold_in(key, index)
        (mean, aux), grads = value_and_grad(tuned, frozen, batch, part_key)
        # Means are weighted by their tokens, so the sum is the mean over the whole batch.
        weighted = jax.tree.map(lambda leaf: leaf * aux["tokens"], (mean, grads))
        return jax.tree.map(jnp.add, total, (weighted, aux["tokens"])), None

    split = jax.tree.map(lambda a: a.reshape(parts, a.shape[0] // parts, *a.shape[1:]), batch)
    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, tuned))
    none = jnp.zeros((), jnp.int32)
    ((mean, grads), tokens), _ = jax.lax.scan(add, (zeros, none), (split, jnp.arange(parts)))
    mean, grads = jax.tree.map(lambda leaf: leaf / jnp.maximum(tokens, 1), (mean, grads))
    return (mean, {"tokens": tokens}), grads


def fit(
    loss: Loss,
    state: State,
    frozen: Any,
    batches: Iterable[Any],
    config: TrainConfig,
    *,
    after_step: Callable[[int, State, dict[str, float]], bool] | None = None,
    step_fn: Callable[..., Any] | None = None,
    mesh: Any = None,
) -> State:
    """Runs a step for every batch and hands each result to `after_step`.

    Evaluation, checkpoints and progress live in `after_step`, which is called with the number of
    finished steps, the state and the metrics, and ends training by returning True. It must not
    keep the state's arrays: the next step donates them.

    Args:
      batches: the batches that are still to come; the caller slices them when resuming.
      step_fn: a step from `compile_step`, to share one compilation between calls.
      mesh: that of the backbone; every device has the state, and its part of a batch's rows.

    Raises:
      DivergedError: the loss or the gradient is NaN or infinite.
    """
    step_fn = step_fn or compile_step(loss, config, mesh)
    step = int(state.step)
    state = replicate(state, mesh)
    for batch in batches:
        state, metrics = step_fn(state, frozen, place_rows(batch, mesh))
        step += 1
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        _check_finite(step, metrics, config, frozen)
        if after_step and after_step(step, state, metrics):
            break
    return state


def _check_finite(step: int, metrics: dict[str, float], config: TrainConfig, frozen: Any) -> None:
    if np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]):
        return
    dtype = jax.tree.leaves(frozen)[0].dtype
    raise DivergedError(
        f"loss {metrics['loss']} and gradient norm {metrics['grad_norm']} at step {step} "
        f"(learning rate {metrics['learning_rate']:g}, frozen weights in {dtype}); the last good "
        "checkpoint is kept. Try a lower train.learning_rate than that of this run, "
        "train.warmup_steps, or frozen.dtype float32"
    )
