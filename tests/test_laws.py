"""What must hold on every backbone, whatever it is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_jax.config import PLACEMENTS, PromptTuningConfig, TrainConfig
from prompt_jax.data import Batch
from prompt_jax.losses import loss_fn, target_logits
from prompt_jax.methods import Injection, Placement, init, materialize, prepend
from prompt_jax.train import compile_step, fit, start

METHOD = PromptTuningConfig(num_virtual_tokens=4)


def batch_of(rows=4, text=6, target=2, seed=0):
    """Texts of at least two tokens, the first two of which an encoder has to fill in."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, text + 1, rows)
    mask = np.arange(text) < lengths[:, None]
    tokens = np.where(mask, rng.integers(2, 63, (rows, text)), 0).astype(np.int32)
    tokens[:, :2] = 63
    targets = rng.integers(2, 64, (rows, target)).astype(np.int32)
    target_mask = np.arange(target) < rng.integers(1, target + 1, rows)[:, None]
    return Batch(tokens, mask, targets, target_mask)


WRITERS = ["t5", *[pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "llama")]]


@pytest.fixture(scope="module", params=[*WRITERS, "bert"])
def backbone(request):
    return _tiny(request)


@pytest.fixture(scope="module", params=WRITERS)
def writer(request):
    return _tiny(request)


def _tiny(request):
    return request.getfixturevalue("tiny" if request.param == "t5" else f"tiny_{request.param}")


_logits = jax.jit(target_logits, static_argnums=0)


def logits_of(backbone, injection, batch):
    arrays = (batch.tokens, batch.mask, batch.targets)
    return _logits(backbone.module, backbone.params, injection, *arrays)


def gradient_of(backbone):
    """Loss and gradient with respect to the tuned tree, compiled."""
    return jax.jit(jax.value_and_grad(loss_fn(METHOD, backbone), has_aux=True))


def test_an_empty_prompt_is_the_plain_backbone_exactly(backbone):
    batch = batch_of()
    for placement in map(Placement, PLACEMENTS):
        empty = Injection(jnp.zeros((0, backbone.width)), placement=placement)
        ours = logits_of(backbone, empty, batch)
        np.testing.assert_array_equal(ours, logits_of(backbone, None, batch))


def test_a_prompt_of_embedded_words_is_those_words_in_the_input(backbone):
    batch, words = batch_of(), jnp.array([7, 9, 11])
    spelled = np.concatenate([np.tile(words, (4, 1)), batch.tokens], axis=1).astype(np.int32)
    longer = batch._replace(
        tokens=spelled, mask=np.pad(batch.mask, ((0, 0), (3, 0)), constant_values=True)
    )
    ours = logits_of(backbone, Injection(backbone.embed(words)), batch)
    np.testing.assert_allclose(ours, logits_of(backbone, None, longer), atol=1e-5)


@pytest.mark.parametrize("placement", ["after_bos", "suffix"])
def test_placements_put_the_words_where_they_say(backbone, placement):
    words = jnp.array([7, 9])
    batch = Batch(
        np.array([[5, 6, 1, 0, 0], [8, 1, 0, 0, 0]], np.int32),
        np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], bool),
        np.array([[3], [3]], np.int32),
        np.ones((2, 1), bool),
    )
    spelled = {
        "after_bos": [[5, 7, 9, 6, 1, 0, 0], [8, 7, 9, 1, 0, 0, 0]],
        "suffix": [[5, 6, 1, 7, 9, 0, 0], [8, 1, 7, 9, 0, 0, 0]],
    }[placement]
    tokens = np.array(spelled, np.int32)
    there = batch._replace(tokens=tokens, mask=tokens > 0)
    injection = Injection(backbone.embed(words), placement=Placement(placement))
    ours = logits_of(backbone, injection, batch)
    np.testing.assert_allclose(ours, logits_of(backbone, None, there), atol=1e-5)


def test_padding_never_changes_a_logit(backbone):
    batch = batch_of()
    wider = batch._replace(
        tokens=np.pad(batch.tokens, ((0, 0), (0, 5))), mask=np.pad(batch.mask, ((0, 0), (0, 5)))
    )
    injection = materialize(METHOD, init(METHOD, backbone, jax.random.key(0)))
    for placement in map(Placement, PLACEMENTS):
        placed = injection._replace(placement=placement)
        narrow = logits_of(backbone, placed, batch)
        np.testing.assert_allclose(narrow, logits_of(backbone, placed, wider), atol=1e-5)


def test_padding_virtual_tokens_never_change_a_logit(backbone):
    """A shorter prompt is padded on the left, so text and prompt keep their distances."""
    batch = batch_of()
    prompt = init(METHOD, backbone, jax.random.key(0))["prompt"]
    padded = Injection(jnp.pad(prompt, ((3, 0), (0, 0)), constant_values=9.0), jnp.arange(7) >= 3)
    alone = logits_of(backbone, Injection(prompt), batch)
    np.testing.assert_allclose(alone, logits_of(backbone, padded, batch), atol=1e-5)


def test_a_row_in_a_mixed_batch_is_the_row_alone(backbone):
    batch = batch_of()
    prompts = jnp.stack([init(METHOD, backbone, jax.random.key(k))["prompt"] for k in range(4)])
    together = logits_of(backbone, Injection(prompts), batch)
    for i in range(4):
        alone = jax.tree.map(lambda field, i=i: field[i : i + 1], batch)
        np.testing.assert_allclose(
            together[i : i + 1], logits_of(backbone, Injection(prompts[i]), alone), atol=1e-5
        )


def test_gradient_and_optimizer_hold_the_prompt_and_nothing_of_backbone_size(backbone):
    tuned = init(METHOD, backbone, jax.random.key(0))
    _, grads = gradient_of(backbone)(tuned, backbone.params, batch_of())
    assert jax.tree.map(jnp.shape, grads) == {"prompt": (4, backbone.width)}
    numbers = 4 * backbone.width
    for name in ("adafactor", "adafactor_t5x", "adamw"):
        state = start(tuned, TrainConfig(optimizer=name))
        sizes = [leaf.size for leaf in jax.tree.leaves(state.opt_state)]
        assert set(sizes) <= {1, numbers}
        assert sizes.count(numbers) == (2 if name == "adamw" else 1)
        assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(state))


def test_the_frozen_tree_is_bit_identical_after_training(backbone):
    before = jax.tree.map(np.array, backbone.params)
    config = TrainConfig(steps=5, batch_size=4)
    state = start(init(METHOD, backbone, jax.random.key(0)), config)
    first = np.array(state.tuned["prompt"])
    state = fit(
        loss_fn(METHOD, backbone),
        state,
        backbone.params,
        [batch_of(seed=i) for i in range(5)],
        config,
    )
    assert int(state.step) == 5 and not np.array_equal(first, state.tuned["prompt"])
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, backbone.params))


def test_n_prompts_by_vmap_are_n_runs(backbone):
    grad, batch = gradient_of(backbone), batch_of()
    many = [init(METHOD, backbone, jax.random.key(k)) for k in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    together = jax.vmap(grad, in_axes=(0, None, None))(stacked, backbone.params, batch)[1]
    for k, tuned in enumerate(many):
        alone = grad(tuned, backbone.params, batch)[1]
        np.testing.assert_allclose(together["prompt"][k], alone["prompt"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"scan": False}, {"remat": "minimal"}, {"remat": "full"}], ids=str
)
def test_scan_equals_layers_apart_and_remat_equals_not(backbone, change):
    other = dataclasses.replace(backbone, config=dataclasses.replace(backbone.config, **change))
    tuned, batch = init(METHOD, backbone, jax.random.key(0)), batch_of()
    ours, theirs = (
        gradient_of(model)(tuned, backbone.params, batch) for model in (backbone, other)
    )
    np.testing.assert_allclose(ours[0][0], theirs[0][0], rtol=1e-6)
    np.testing.assert_allclose(ours[1]["prompt"], theirs[1]["prompt"], rtol=1e-4, atol=1e-6)


def test_unstacked_layers_are_the_same_model(backbone):
    """What the training step is given on CPU: a tuple of layers for every stacked leaf."""
    apart = dataclasses.replace(backbone, config=dataclasses.replace(backbone.config, scan=False))
    tuned, batch = init(METHOD, backbone, jax.random.key(0)), batch_of()
    grad = gradient_of(apart)
    ours, theirs = (grad(tuned, params, batch)[1] for params in (apart.unstacked(), apart.params))
    np.testing.assert_array_equal(ours["prompt"], theirs["prompt"])
    assert backbone.unstacked() is backbone.params


def test_cached_decoding_equals_uncached(writer):
    backbone = writer
    batch = batch_of(target=5)
    embeddings, mask = prepend(
        materialize(METHOD, init(METHOD, backbone, jax.random.key(0))),
        backbone.embed(batch.tokens),
        jnp.asarray(batch.mask),
    )
    given, targets = {"params": backbone.params}, jnp.asarray(batch.targets)
    apply = jax.jit(backbone.module.apply, static_argnames=("method", "length"))
    whole = apply(given, embeddings, mask, targets, method="predict")
    logits, cache = apply(given, embeddings, mask, length=5, method="prefill")
    for i in range(5):
        np.testing.assert_allclose(logits, whole[:, i], atol=1e-5)
        arguments = (targets[:, i : i + 1], None, mask, cache, i + 1)
        if i < 4:
            logits, cache = apply(given, *arguments, method="decode")
            logits = logits[:, 0]


def test_no_key_no_dropout_and_a_key_changes_the_loss(backbone):
    dropped = dataclasses.replace(
        backbone, config=dataclasses.replace(backbone.config, dropout=0.3)
    )
    tuned, batch = init(METHOD, backbone, jax.random.key(0)), batch_of()
    plain, loss = (jax.jit(loss_fn(METHOD, model)) for model in (backbone, dropped))
    plain = plain(tuned, backbone.params, batch)[0]
    assert loss(tuned, backbone.params, batch)[0] == plain
    first, again, other = (
        loss(tuned, backbone.params, batch, jax.random.key(k))[0] for k in (0, 0, 1)
    )
    assert first == again and first != other and first != plain


def test_the_update_is_the_textbook_adafactor(tiny):
    """Lester et al.: no factoring, no parameter scaling, update clipped to RMS 1, decay 1e-5."""
    config = TrainConfig(learning_rate=0.3, batch_size=4)
    tuned, batch = init(METHOD, tiny, jax.random.key(0)), batch_of()
    grads = gradient_of(tiny)(tuned, tiny.params, batch)[1]["prompt"]
    update = grads / jnp.sqrt(grads**2 + 1e-30)  # the first step has no memory
    update /= jnp.maximum(1.0, jnp.sqrt(jnp.mean(update**2)))
    expected = tuned["prompt"] * (1 - 1e-5) - 0.3 * update
    step = compile_step(loss_fn(METHOD, tiny), config)
    state, _ = step(start(tuned, config), tiny.params, batch)
    np.testing.assert_allclose(state.tuned["prompt"], expected, rtol=1e-4, atol=1e-5)
    assert optax.tree.norm(grads) > 0
