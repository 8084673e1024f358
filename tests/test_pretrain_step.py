"""A step of pretraining, and the weights that it starts from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from make_corpus import rng

from prompt_jax.backbones.t5 import T5
from prompt_jax.pretrain import lookup
from prompt_jax.pretrain.bank import CLASSIFY, Bank, kind_of
from prompt_jax.pretrain.corpus import padded
from prompt_jax.pretrain.run import rows_of
from prompt_jax.pretrain.step import adafactor, loss, model_config, prompts_of, rescaled, start


def headless(prepared):
    """A head that reads nothing yet."""
    return jnp.zeros((16, prepared[0].space.texts.shape[1]))


def test_rescaling_changes_no_logit(prepared, stage):
    _, params, _ = prepared
    state = start(stage, params, headless(prepared))
    module = T5(model_config(stage, prepared[2]))
    tokens = jnp.asarray([[5, 6, 7, 1]])

    @jax.jit
    def logits(tree):
        words = module.apply({"params": tree}, tokens, method="embed")
        return module.apply({"params": tree}, words, tokens > 0, tokens)

    big = rescaled(state.weights["model"], 5.0)
    assert jnp.sqrt(jnp.mean(big["embedding"] ** 2)) == pytest.approx(5.0, rel=1e-5)
    np.testing.assert_allclose(logits(big), logits(params), atol=2e-4)


def test_the_encoder_starts_by_carrying_the_text(prepared, stage):
    """A linear map reads a text's place from the mean state: nothing has been drowned."""
    material, params, size = prepared
    module = T5(model_config(stage, size))
    tokens = jnp.asarray(padded(material.texts[:200], 44))
    words = module.apply({"params": params}, tokens, method="embed")
    states = module.apply({"params": params}, words, tokens > 0, method="encode")
    mask = np.asarray(tokens > 1)[..., None]
    means = (np.asarray(states) * mask).sum(1) / mask.sum(1)
    means -= means.mean(0)
    places = material.space.texts[:200] - material.space.texts[:200].mean(0)
    missed = places - means @ np.linalg.lstsq(means, places, rcond=None)[0]
    assert 1 - (missed**2).sum() / (places**2).sum() > 0.9


def test_pooled_states_are_those_of_the_encoder(prepared, stage):
    material, params, size = prepared
    module = T5(model_config(stage, size))
    tokens = jnp.asarray(padded(material.texts[:50], 44))
    words = module.apply({"params": params}, tokens, method="embed")
    states = module.apply({"params": params}, words, tokens > 0, method="encode")
    mask = np.asarray(tokens > 1)[..., None]
    means = (np.asarray(states) * mask).sum(1) / mask.sum(1)
    told = lookup.pooled(np.asarray(params["embedding"]), material.texts[:50])
    assert np.corrcoef(means.ravel(), told.ravel())[0, 1] > 0.99


def test_a_text_is_answered_with_the_virtual_token_it_resembles(prepared, stage):
    """Before any training: two virtual tokens, each the mean of half the texts plus a word."""
    material, params, size = prepared
    module = T5(model_config(stage, size))
    table, texts = np.asarray(params["embedding"]), material.texts[:200]
    stood = lookup.pooled(table, texts)
    side = (stood - stood.mean(0)) @ np.linalg.svd(stood - stood.mean(0))[2][0] > 0
    first, second = size - 1, size - 2  # rows that no text has
    gap = stood[side].mean(0) - stood[~side].mean(0)
    gap *= 12.0 / np.linalg.norm(gap)
    tokens = jnp.asarray(padded(texts, 44))
    embed, encode, decode = (
        jax.jit(functools.partial(module.apply, {"params": params}, method=name))
        for name in ("embed", "encode", "decode")
    )
    words = embed(tokens)
    mask = jnp.concatenate([jnp.ones((200, 2), bool), tokens > 0], axis=1)

    def lean(one, other):
        prompt = np.stack([table[one] + gap, table[other] - gap])
        prompt[:, 0] = -lookup.SCALE
        before = jnp.broadcast_to(prompt, (200, 2, 16)).astype(words.dtype)
        both = jnp.concatenate([before, words], axis=1)
        begin = jnp.zeros((200, 1), jnp.int32)
        logits, _ = decode(begin, encode(both, mask), mask)
        return np.asarray(logits)[:, 0, first] - np.asarray(logits)[:, 0, second]

    told = lean(first, second) - lean(second, first)  # less what the text says of the words itself
    assert ((told > np.median(told)) == side).mean() > 0.75


def test_prompts_start_from_label_words_or_from_any(prepared, stage):
    bank, size = Bank(prepared[0], stage), prepared[2]
    step = next(step for step in range(20) if kind_of(stage, step) == CLASSIFY)
    batch = bank[step]
    told = rows_of(dataclasses.replace(stage, label_starts=1.0), batch, step, size)
    for starts, words in zip(np.asarray(told.starts), batch.answers, strict=True):
        assert len(words) >= 2 and starts.tolist() == (3 * words)[: stage.virtual_tokens]
    free = rows_of(dataclasses.replace(stage, label_starts=0.0), batch, step, size)
    assert np.asarray(free.starts).min() >= 3
    assert free.starts.tolist() != told.starts.tolist()


def test_prompts_start_again_with_a_new_task(prepared, stage):
    _, params, _ = prepared
    state = start(stage, params, headless(prepared))
    state = state._replace(prompts=state.prompts + 7.0, births=state.births.at[0].set(0))
    batch = Bank(prepared[0], stage)[0]
    rows = rows_of(stage, batch, 0, 80)._replace(slots=jnp.asarray([0, 1], jnp.int32))
    rows = rows._replace(births=jnp.zeros(2, jnp.int32))
    prompts, moments, ages = prompts_of(state, rows)
    assert (prompts[0] == 7.0).all()
    np.testing.assert_array_equal(prompts[1], params["embedding"][rows.starts[1]])
    assert not moments.any() and not ages.any()


def test_adafactor_is_the_one_of_prompt_tuning():
    theirs = optax.adafactor(
        0.3, factored=False, multiply_by_parameter_scale=False, clipping_threshold=1.0
    )
    ours = reference = jnp.asarray(rng().normal(size=(1, 3, 4)), jnp.float32)
    moments, opt_state = jnp.zeros_like(ours), theirs.init(reference)
    for age in range(4):
        grads = jnp.asarray(rng(age).normal(size=(1, 3, 4)), jnp.float32)
        ours, moments = adafactor(ours, grads, moments, jnp.asarray([age]), 0.3)
        updates, opt_state = theirs.update(grads, opt_state, reference)
        reference = optax.apply_updates(reference, updates)
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5)


def test_padding_and_the_head_weight_count_as_they_should(prepared, stage):
    material, params, size = prepared
    module = T5(model_config(stage, size))
    state = start(stage, params, headless(prepared))
    batch = Bank(material, dataclasses.replace(stage, classify_share=1.0))[0]
    rows = rows_of(stage, batch, 0, 80)
    prompts = prompts_of(state, rows)[0]
    cost = jax.jit(loss, static_argnums=2)
    plain, metrics = cost(state.weights, prompts, module, rows, 0.0)
    assert float(plain) == pytest.approx(float(metrics["loss"]))
    heavy, _ = cost(state.weights, prompts, module, rows, 2.0)
    assert float(heavy - plain) == pytest.approx(2 * float(np.mean(batch.places**2)), rel=1e-4)
    wider = rows._replace(
        tokens=jnp.pad(rows.tokens, ((0, 0), (0, 5))),
        targets=jnp.pad(rows.targets, ((0, 0), (0, 3))),
    )
    assert float(cost(state.weights, prompts, module, wider, 0.0)[0]) == pytest.approx(
        float(plain), rel=1e-5
    )
