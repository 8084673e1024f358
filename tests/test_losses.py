import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.answers import Candidates, label_loss
from prompt_jax.config import InputError, PromptTuningConfig
from prompt_jax.data import Batch
from prompt_jax.generate import score
from prompt_jax.losses import Pull, loss_fn
from prompt_jax.methods import init, materialize

METHOD = PromptTuningConfig(num_virtual_tokens=3)
WORDS = Candidates(
    np.array([[5, 1, 0], [6, 7, 1], [8, 1, 0]], np.int32),
    np.array([[1, 1, 0], [1, 1, 1], [1, 1, 0]], bool),
)


def batch_of(gold):
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 30, (len(gold), 5), np.int32)
    return Batch(tokens, np.ones(tokens.shape, bool), WORDS.tokens[gold], WORDS.mask[gold])


def test_the_loss_over_labels_is_that_of_their_scores(tiny):
    """Against the scores that evaluation ranks by."""
    gold = np.array([2, 0, 1, 1])
    tuned, batch = init(METHOD, tiny, jax.random.key(0)), batch_of(gold)
    scores = np.asarray(
        score(tiny, materialize(METHOD, tuned), batch.tokens, batch.mask, WORDS.tokens, WORDS.mask)
    )
    right = scores[np.arange(4), gold]
    others = np.where(np.eye(3)[gold] > 0, -np.inf, scores).max(1)
    expected = {
        "labels": (np.log(np.exp(scores).sum(1)) - right).mean(),
        "perceptron": np.maximum(0, 0.5 + others - right).mean(),
    }
    for objective, value in expected.items():
        loss = loss_fn(METHOD, tiny, objective=objective, candidates=WORDS, margin=0.5)
        mean, aux = jax.jit(loss)(tuned, tiny.params, batch)
        np.testing.assert_allclose(mean, value, rtol=1e-4)
        assert aux["tokens"] == 4


def test_the_perceptron_has_a_gradient_inside_the_margin_and_none_beyond():
    scores, gold = jnp.array([[1.0, 0.9], [3.0, 0.0]]), jnp.array([0, 0])
    grads = jax.grad(lambda s: label_loss("perceptron", s, gold, 0.2))(scores)
    np.testing.assert_allclose(grads, [[-0.5, 0.5], [0.0, 0.0]])


@pytest.mark.slow
def test_a_pull_is_the_squared_distance_a_row(tiny):
    tuned, batch = init(METHOD, tiny, jax.random.key(0)), batch_of(np.array([0, 1]))
    anchor = jax.tree.map(lambda leaf: leaf + 2.0, tuned)
    plain = loss_fn(METHOD, tiny)(tuned, tiny.params, batch)[0]
    pulled = loss_fn(METHOD, tiny, pull=Pull(anchor, 0.1))(tuned, tiny.params, batch)[0]
    np.testing.assert_allclose(pulled - plain, 0.1 * 4.0 * tiny.width, rtol=1e-4)


def test_objectives_of_labels_need_labels(tiny):
    with pytest.raises(InputError, match="compares label words and the task has none"):
        loss_fn(METHOD, tiny, objective="labels")
    with pytest.raises(InputError, match="unknown objective 'label'.*meant 'labels'"):
        loss_fn(METHOD, tiny, objective="label")


def test_short_inputs_keep_what_long_ones_recompute(tiny):
    """`remat_beyond` is `minimal` up to so many positions, and `full` for longer inputs."""
    tuned = init(METHOD, tiny, jax.random.key(0))

    def program(length, **fields):
        config = dataclasses.replace(tiny.config, **fields)
        loss = loss_fn(METHOD, dataclasses.replace(tiny, config=config))
        batch = batch_of(np.array([0, 1]))
        rows = {name: getattr(batch, name)[:, :length] for name in ("tokens", "mask")}
        gradient = jax.jit(jax.grad(loss, has_aux=True))
        return gradient.lower(tuned, tiny.params, batch._replace(**rows)).as_text()

    beyond = {"remat": "full", "remat_beyond": 7}
    # With three virtual tokens.
    assert program(4, **beyond) == program(4, remat="minimal") != program(4, remat="full")
    assert program(5, **beyond) == program(5, remat="full") != program(5, remat="minimal")
