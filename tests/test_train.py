import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_jax.answers import cross_entropy
from prompt_jax.config import PromptTuningConfig, TrainConfig
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init
from prompt_jax.testing import random_batch
from prompt_jax.train import (
    DivergedError,
    compile_step,
    fit,
    learning_rate,
    optimizer,
    run_steps,
    start,
)

METHOD = PromptTuningConfig(num_virtual_tokens=4)
CONFIG = TrainConfig(steps=30, batch_size=4, learning_rate=0.3)


@pytest.fixture(scope="module")
def tuned(tiny):
    return init(METHOD, tiny, jax.random.key(0))


@pytest.fixture(scope="module")
def step_fn(tiny):
    """The compiled step of CONFIG, for all tests that need no other."""
    return compile_step(loss_fn(METHOD, tiny), CONFIG)


def trained(tiny, tuned, step_fn, batches, config=CONFIG, **options):
    """The state after the batches."""
    state = start(tuned, config)
    loss = loss_fn(METHOD, tiny)
    return fit(loss, state, tiny.params, batches, config, step_fn=step_fn, **options)


def test_training_lowers_the_loss(tiny, tuned, step_fn):
    losses = []

    def watch(step, state, metrics):
        losses.append(metrics["loss"])

    trained(tiny, tuned, step_fn, [random_batch(tiny)] * 30, after_step=watch)
    assert len(losses) == 30 and losses[-1] < 0.8 * losses[0]


def test_after_step_ends_training(tiny, tuned, step_fn):
    def second(step, state, metrics):
        return step == 2

    state = trained(tiny, tuned, step_fn, [random_batch(tiny)] * 5, after_step=second)
    assert int(state.step) == 2


def test_a_step_is_reported_while_the_next_one_runs():
    events = []

    def step_fn(state, batch):
        events.append(f"run {batch}")
        return state + 1, f"numbers {batch}"

    def report(step, state, metrics):
        events.append((step, state, metrics))
        return step == 4

    assert run_steps(step_fn, 0, [1, 2, 3, 4, 5], report, lambda step: step in (3, 4)) == 4
    late, due = (
        [(i, None, f"numbers {i}") for i in (1, 2)],
        [(i, i, f"numbers {i}") for i in (3, 4)],
    )
    assert events == ["run 1", "run 2", late[0], "run 3", late[1], due[0], "run 4", due[1]]
    events.clear()
    assert run_steps(step_fn, 7, [8, 9], report, lambda step: False, step=7) == 9
    assert events == ["run 8", "run 9", (8, None, "numbers 8"), (9, 9, "numbers 9")]


@pytest.fixture(scope="module")
def leap(tiny):
    """A step that leads to numbers that are none, and its config."""
    config = TrainConfig(batch_size=4, optimizer="adamw", learning_rate=3.4e38, weight_decay=1.0)
    return compile_step(loss_fn(METHOD, tiny), config), config


@pytest.mark.parametrize("due", [None, lambda step: False, lambda step: step == 2])
def test_no_state_that_is_not_finite_is_handed_on(tiny, tuned, leap, due):
    """A step whose loss is still a number may be the one after which none is."""
    steps = []

    def after_step(step, state, row):
        steps.append(step)
        assert state is None and np.isfinite(row["loss"])

    batches = iter([random_batch(tiny)] * 5)
    with pytest.raises(DivergedError, match="trained parameters that are not finite|loss nan"):
        trained(tiny, tuned, leap[0], batches, leap[1], after_step=after_step, due=due)
    assert steps == ([] if due is None else [1]) and len(list(batches)) >= 5 - 3


def test_one_shape_is_compiled_once(tiny, tuned):
    config, traces = TrainConfig(batch_size=4), []
    loss = loss_fn(METHOD, tiny)

    def counted(*args):
        traces.append(1)
        return loss(*args)

    fit(
        counted,
        start(tuned, config),
        tiny.params,
        [random_batch(tiny, seed=i) for i in range(4)],
        config,
    )
    assert len(traces) == 1


def test_the_callers_prompt_survives_donation(tiny, tuned, step_fn):
    trained(tiny, tuned, step_fn, [random_batch(tiny)])
    assert np.isfinite(np.asarray(tuned["prompt"])).all()


def test_accumulated_micro_batches_equal_one_batch(tiny, tuned):
    """Rows have different numbers of target tokens: the mean is over tokens, not micro-batches."""
    batch = random_batch(tiny, rows=8, target=4, seed=3)
    whole, parts = (TrainConfig(batch_size=8, accumulate=n, optimizer="adamw") for n in (1, 4))
    (one, m1), (four, m4) = (
        compile_step(loss_fn(METHOD, tiny), c)(start(tuned, c), tiny.params, batch)
        for c in (whole, parts)
    )
    np.testing.assert_allclose(m1["loss"], m4["loss"], rtol=1e-6)
    np.testing.assert_allclose(m1["grad_norm"], m4["grad_norm"], rtol=1e-4)
    np.testing.assert_allclose(one.tuned["prompt"], four.tuned["prompt"], atol=1e-4)


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_dropout_is_seeded_by_the_step(tiny, tuned, accumulate):
    config = TrainConfig(batch_size=4, dropout=0.2, accumulate=accumulate)
    dropped = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, dropout=0.2))
    step = compile_step(loss_fn(METHOD, dropped), config)
    first, again = (step(start(tuned, config), tiny.params, random_batch(tiny)) for _ in range(2))
    assert first[1]["loss"] == again[1]["loss"]
    moved = start(tuned, config)._replace(step=jnp.int32(1))
    assert step(moved, tiny.params, random_batch(tiny))[1]["loss"] != first[1]["loss"]


def test_divergence_names_step_rate_and_dtype(tiny, tuned, step_fn):
    params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), tiny.params)
    broken = dataclasses.replace(tiny, params=params)
    message = "loss nan.* at step 1 .*learning rate 0.3, frozen weights in float32.*lower"
    with pytest.raises(DivergedError, match=message):
        trained(broken, tuned, step_fn, [random_batch(tiny)])


def test_schedules():
    config = TrainConfig(steps=10, learning_rate=1.0, warmup_steps=2)
    rates = {
        name: [
            float(learning_rate(dataclasses.replace(config, schedule=name))(i)) for i in range(11)
        ]
        for name in ("constant", "linear", "cosine")
    }
    assert rates["constant"] == [0.5, *[1.0] * 10]
    np.testing.assert_allclose(
        rates["linear"], [0.5, *np.linspace(1, 1, 1), *np.linspace(1, 0, 9)], atol=1e-6
    )
    assert rates["cosine"][6] == pytest.approx(0.5) and rates["cosine"][10] == pytest.approx(0)


def test_the_t5x_preset_keeps_the_rms_of_its_updates():
    """Resumed at step 1.1M, second moments hardly decay: every clipped step has RMS 0.3."""
    params = {"prompt": jnp.zeros((4, 8))}
    for name, expected in (("adafactor_t5x", 0.3), ("adafactor", None)):
        config = TrainConfig(optimizer=name, weight_decay=0.0, schedule="constant")
        transform = optimizer(config, params)
        state, sizes = transform.init(params), []
        for i in range(20):
            grads = {"prompt": jax.random.normal(jax.random.key(i), (4, 8)) / (i + 1)}
            updates, state = transform.update(grads, state, params)
            sizes.append(float(jnp.sqrt(jnp.mean(updates["prompt"] ** 2))))
        assert all(np.isfinite(sizes))
        if expected:
            np.testing.assert_allclose(sizes, expected, rtol=1e-4)
        else:
            assert sizes[-1] < 0.25


def test_cross_entropy_is_that_of_optax():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 7))
    targets = jnp.array([[0, 1, 2], [3, 4, 5]])
    ours = cross_entropy(logits, targets)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    smooth = optax.smooth_labels(jax.nn.one_hot(targets, 7), 0.1)
    np.testing.assert_allclose(
        cross_entropy(logits, targets, label_smoothing=0.1),
        optax.softmax_cross_entropy(logits, smooth),
        rtol=1e-5,
    )
    z = jax.nn.logsumexp(logits, axis=-1)
    np.testing.assert_allclose(
        cross_entropy(logits, targets, z_loss=0.01), expected + 0.01 * z**2, rtol=1e-5
    )


def test_the_update_is_the_textbook_adafactor(tiny, tuned, step_fn):
    """Lester et al.: no factoring, no parameter scaling, update clipped to RMS 1, decay 1e-5."""
    batch, loss = random_batch(tiny), loss_fn(METHOD, tiny)
    grads = jax.jit(jax.grad(loss, has_aux=True))(tuned, tiny.params, batch)[0]["prompt"]
    update = grads / jnp.sqrt(grads**2 + 1e-30)  # The first step has no memory.
    update /= jnp.maximum(1.0, jnp.sqrt(jnp.mean(update**2)))
    expected = tuned["prompt"] * (1 - 1e-5) - 0.3 * update
    state, _ = step_fn(start(tuned, CONFIG), tiny.params, batch)
    np.testing.assert_allclose(state.tuned["prompt"], expected, rtol=1e-4, atol=1e-5)
    assert optax.tree.norm(grads) > 0
