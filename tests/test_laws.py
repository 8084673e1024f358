"""What must hold on every backbone, whatever it is (T5 so far)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_jax.backbones import t5
from prompt_jax.config import PromptTuningConfig, TrainConfig
from prompt_jax.data import Batch
from prompt_jax.losses import loss_fn, seq2seq_logits
from prompt_jax.methods import Injection, init, materialize, prepend
from prompt_jax.train import compile_step, fit, start

METHOD = PromptTuningConfig(num_virtual_tokens=4)


def batch_of(rows=4, text=6, target=3, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, text + 1, rows)
    mask = np.arange(text) < lengths[:, None]
    tokens = np.where(mask, rng.integers(2, 64, (rows, text)), 0).astype(np.int32)
    targets = rng.integers(2, 64, (rows, target)).astype(np.int32)
    target_mask = np.arange(target) < rng.integers(1, target + 1, rows)[:, None]
    return Batch(tokens, mask, targets, target_mask)


def logits_of(backbone, injection, batch, **kwargs):
    return seq2seq_logits(
        backbone.module,
        backbone.params,
        injection,
        jnp.asarray(batch.tokens),
        jnp.asarray(batch.mask),
        t5.shift_right(jnp.asarray(batch.targets), 0),
        **kwargs,
    )


def test_an_empty_prompt_is_the_plain_backbone_exactly(tiny):
    batch = batch_of()
    empty = Injection(jnp.zeros((0, tiny.width)))
    for placement in ("prefix", "after_bos", "suffix"):
        ours = logits_of(tiny, empty, batch, placement=placement)
        np.testing.assert_array_equal(ours, logits_of(tiny, None, batch))


def test_a_prompt_of_embedded_words_is_those_words_in_the_input(tiny):
    batch, words = batch_of(), jnp.array([7, 9, 11])
    spelled = np.concatenate([np.tile(words, (4, 1)), batch.tokens], axis=1).astype(np.int32)
    longer = batch._replace(
        tokens=spelled, mask=np.pad(batch.mask, ((0, 0), (3, 0)), constant_values=True)
    )
    ours = logits_of(tiny, Injection(tiny.embed(words)), batch)
    np.testing.assert_allclose(ours, logits_of(tiny, None, longer), atol=1e-5)


@pytest.mark.parametrize("placement", ["after_bos", "suffix"])
def test_placements_put_the_words_where_they_say(tiny, placement):
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
    ours = logits_of(tiny, Injection(tiny.embed(words)), batch, placement=placement)
    np.testing.assert_allclose(ours, logits_of(tiny, None, there), atol=1e-5)


def test_padding_never_changes_a_logit(tiny):
    batch = batch_of()
    wider = batch._replace(
        tokens=np.pad(batch.tokens, ((0, 0), (0, 5))), mask=np.pad(batch.mask, ((0, 0), (0, 5)))
    )
    injection = materialize(METHOD, init(METHOD, tiny, jax.random.key(0)))
    for placement in ("prefix", "after_bos", "suffix"):
        narrow = logits_of(tiny, injection, batch, placement=placement)
        np.testing.assert_allclose(
            narrow, logits_of(tiny, injection, wider, placement=placement), atol=1e-5
        )


def test_padding_virtual_tokens_never_change_a_logit(tiny):
    """A shorter prompt is padded on the left, so text and prompt keep their distances."""
    batch = batch_of()
    prompt = init(METHOD, tiny, jax.random.key(0))["prompt"]
    padded = Injection(jnp.pad(prompt, ((3, 0), (0, 0)), constant_values=9.0), jnp.arange(7) >= 3)
    alone = logits_of(tiny, Injection(prompt), batch)
    np.testing.assert_allclose(alone, logits_of(tiny, padded, batch), atol=1e-5)


def test_a_row_in_a_mixed_batch_is_the_row_alone(tiny):
    batch = batch_of()
    prompts = jnp.stack([init(METHOD, tiny, jax.random.key(k))["prompt"] for k in range(4)])
    together = logits_of(tiny, Injection(prompts), batch)
    for i in range(4):
        alone = jax.tree.map(lambda field, i=i: field[i : i + 1], batch)
        np.testing.assert_allclose(
            together[i : i + 1], logits_of(tiny, Injection(prompts[i]), alone), atol=1e-5
        )


def test_gradient_and_optimizer_hold_the_prompt_and_nothing_of_backbone_size(tiny):
    tuned = init(METHOD, tiny, jax.random.key(0))
    grads = jax.grad(loss_fn(METHOD, tiny), has_aux=True)(tuned, tiny.params, batch_of())[0]
    assert jax.tree.map(jnp.shape, grads) == {"prompt": (4, tiny.width)}
    numbers = 4 * tiny.width
    for name in ("adafactor", "adafactor_t5x", "adamw"):
        state = start(tuned, TrainConfig(optimizer=name))
        sizes = [leaf.size for leaf in jax.tree.leaves(state.opt_state)]
        assert set(sizes) <= {1, numbers}
        assert sizes.count(numbers) == (2 if name == "adamw" else 1)
        assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(state))


def test_the_frozen_tree_is_bit_identical_after_training(tiny):
    before = jax.tree.map(np.array, tiny.params)
    config = TrainConfig(steps=5, batch_size=4)
    state = start(init(METHOD, tiny, jax.random.key(0)), config)
    first = np.array(state.tuned["prompt"])
    state = fit(
        loss_fn(METHOD, tiny), state, tiny.params, [batch_of(seed=i) for i in range(5)], config
    )
    assert int(state.step) == 5 and not np.array_equal(first, state.tuned["prompt"])
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, tiny.params))


def test_n_prompts_by_vmap_are_n_runs(tiny):
    loss, batch = loss_fn(METHOD, tiny), batch_of()
    many = [init(METHOD, tiny, jax.random.key(k)) for k in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    grad = jax.grad(loss, has_aux=True)
    together = jax.vmap(grad, in_axes=(0, None, None))(stacked, tiny.params, batch)[0]
    for k, tuned in enumerate(many):
        alone = grad(tuned, tiny.params, batch)[0]
        np.testing.assert_allclose(together["prompt"][k], alone["prompt"], atol=1e-6)


@pytest.mark.parametrize(
    "change", [{"scan": False}, {"remat": "minimal"}, {"remat": "full"}], ids=str
)
def test_scan_equals_layers_apart_and_remat_equals_not(tiny, change):
    other = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, **change))
    tuned, batch = init(METHOD, tiny, jax.random.key(0)), batch_of()
    ours, theirs = (
        jax.value_and_grad(loss_fn(METHOD, backbone), has_aux=True)(tuned, tiny.params, batch)
        for backbone in (tiny, other)
    )
    np.testing.assert_allclose(ours[0][0], theirs[0][0], rtol=1e-6)
    np.testing.assert_allclose(ours[1]["prompt"], theirs[1]["prompt"], rtol=1e-4, atol=1e-6)


def test_unstacked_layers_are_the_same_model(tiny):
    """What the training step is given on CPU: a tuple of layers for every stacked leaf."""
    apart = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, scan=False))
    tuned, batch = init(METHOD, tiny, jax.random.key(0)), batch_of()
    grad = jax.grad(loss_fn(METHOD, apart), has_aux=True)
    ours, theirs = (grad(tuned, params, batch)[0] for params in (apart.unstacked(), apart.params))
    np.testing.assert_array_equal(ours["prompt"], theirs["prompt"])
    assert tiny.unstacked() is tiny.params


def test_cached_decoding_equals_uncached(tiny):
    batch = batch_of(target=5)
    embeddings, mask = prepend(
        materialize(METHOD, init(METHOD, tiny, jax.random.key(0))),
        tiny.embed(batch.tokens),
        jnp.asarray(batch.mask),
    )
    variables = {"params": tiny.params}
    tokens = t5.shift_right(jnp.asarray(batch.targets), 0)
    whole = tiny.module.apply(variables, embeddings, mask, tokens)
    encoded = tiny.module.apply(variables, embeddings, mask, method="encode")
    cache = t5.empty_cache(tiny.config, 4, 5)
    for i in range(5):
        logits, cache = tiny.module.apply(
            variables,
            tokens[:, i : i + 1],
            encoded if i == 0 else None,
            mask,
            cache,
            i,
            method="decode",
        )
        np.testing.assert_allclose(logits[:, 0], whole[:, i], atol=1e-5)


def test_no_key_no_dropout_and_a_key_changes_the_loss(tiny):
    dropped = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, dropout=0.3))
    tuned, batch = init(METHOD, tiny, jax.random.key(0)), batch_of()
    plain = loss_fn(METHOD, tiny)(tuned, tiny.params, batch)[0]
    loss = loss_fn(METHOD, dropped)
    assert loss(tuned, tiny.params, batch)[0] == plain
    first, again, other = (loss(tuned, tiny.params, batch, jax.random.key(k))[0] for k in (0, 0, 1))
    assert first == again and first != other and first != plain


def test_a_step_costs_forward_and_activation_backward_and_no_more():
    """Multiplications with frozen kernels happen twice, forward and towards the activations.

    A third time would be the gradient of a kernel. Attention is counted at twice its forward
    cost, since both of its operands are activations.
    """
    config = t5.T5Config(
        vocab_size=512, d_model=64, d_kv=16, d_ff=128, num_heads=4, num_layers=2,
        num_decoder_layers=2, scan=False,
    )  # fmt: skip
    from prompt_jax.backbones import Backbone

    shapes = jax.eval_shape(lambda key: t5.init_params(config, key), jax.random.key(0))
    backbone = Backbone(name="shapes", config=config, params=shapes)
    batch, text, virtual, target = 8, 60, 4, 8
    method = PromptTuningConfig(num_virtual_tokens=virtual, init="random")
    rows = jnp.zeros((virtual, config.d_model))
    train = TrainConfig(optimizer="adamw", batch_size=batch)
    step = compile_step(loss_fn(method, backbone), train)
    lowered = step.lower(start({"prompt": rows}, train), shapes, batch_of(batch, text, target))
    measured = lowered.compile().cost_analysis()["flops"]

    s, u = virtual + text, target
    inner, heads = config.num_heads * config.d_kv, 4 * config.d_model
    projections = heads * inner
    mlp = 3 * config.d_model * config.d_ff
    scores = 2 * inner
    encoder = config.num_layers * (s * (projections + mlp) + s * s * scores)
    decoder_kernels = u * (projections + projections // 2 + mlp) + s * projections // 2
    decoder = config.num_decoder_layers * (decoder_kernels + (u * u + u * s) * scores)
    head = u * config.d_model * config.vocab_size
    # Attention: its backward pass has a product for each of two operands, so it costs three.
    attention = config.num_layers * s * s * scores
    attention += config.num_decoder_layers * (u * u + u * s) * scores
    expected = 2 * batch * (2 * (encoder + decoder + head) + attention)
    assert 0.8 * expected <= measured <= 1.05 * expected


def test_the_update_is_the_textbook_adafactor(tiny):
    """Lester et al.: no factoring, no parameter scaling, update clipped to RMS 1, decay 1e-5."""
    config = TrainConfig(learning_rate=0.3, batch_size=4)
    tuned, batch = init(METHOD, tiny, jax.random.key(0)), batch_of()
    grads = jax.grad(loss_fn(METHOD, tiny), has_aux=True)(tuned, tiny.params, batch)[0]["prompt"]
    update = grads / jnp.sqrt(grads**2 + 1e-30)  # the first step has no memory
    update /= jnp.maximum(1.0, jnp.sqrt(jnp.mean(update**2)))
    expected = tuned["prompt"] * (1 - 1e-5) - 0.3 * update
    step = compile_step(loss_fn(METHOD, tiny), config)
    state, _ = step(start(tuned, config), tiny.params, batch)
    np.testing.assert_allclose(state.tuned["prompt"], expected, rtol=1e-4, atol=1e-5)
    assert optax.tree.norm(grads) > 0
