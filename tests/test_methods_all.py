"""What every method must do, on a tiny T5."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax import methods
from prompt_jax.config import METHOD_KINDS, TrainConfig
from prompt_jax.data import Batch
from prompt_jax.generate.prefill import decode_token, prefill
from prompt_jax.losses import loss_fn, seq2seq_logits
from prompt_jax.methods import for_tasks, init, mam, materialize, simplify, unipelt
from prompt_jax.prompts import load_prompt, prompt_for, save_prompt
from prompt_jax.train import compile_step, fit, start

pytestmark = pytest.mark.usefixtures("quick_compile")
P = 4
# (config, whether a fresh tree leaves the backbone exactly as it is)
CASES = {
    "prompt": (pj.PromptTuningConfig(num_virtual_tokens=P), False),
    "prompt_decoder": (pj.PromptTuningConfig(num_virtual_tokens=P, stack="decoder"), False),
    "prompt_both": (pj.PromptTuningConfig(num_virtual_tokens=P, stack="both"), False),
    "p_tuning_mlp": (pj.PTuningConfig(num_virtual_tokens=P, encoder_hidden_size=8), False),
    "p_tuning_lstm": (
        pj.PTuningConfig(
            num_virtual_tokens=P,
            encoder_hidden_size=8,
            encoder_reparameterization_type="LSTM",
            encoder_dropout=0.1,
        ),
        False,
    ),
    "prefix": (pj.PrefixTuningConfig(num_virtual_tokens=P), False),
    "prefix_encoder": (
        pj.PrefixTuningConfig(num_virtual_tokens=P, decoder=False, cross=False),
        False,
    ),
    "prefix_mlp": (
        pj.PrefixTuningConfig(num_virtual_tokens=P, prefix_projection=True, encoder_hidden_size=8),
        False,
    ),
    "p_tuning_v2": (pj.PTuningV2Config(num_virtual_tokens=P), False),
    "deep_replace": (pj.DeepPromptConfig(num_virtual_tokens=P), False),
    "deep_add": (pj.DeepPromptConfig(num_virtual_tokens=P, how="add"), False),
    "residual": (pj.ResidualPromptConfig(num_virtual_tokens=P, bottleneck_size=4), False),
    "decomposed": (pj.DecomposedPromptConfig(num_virtual_tokens=P, r=2, max_length=5), False),
    **{
        f"multitask_{how}": (
            pj.MultitaskPromptConfig(num_virtual_tokens=P, num_tasks=3, combine=how),
            False,
        )
        for how in ("multiply", "add", "concat", "concat_features", "project")
    },
    "lora": (pj.LoraConfig(r=2, target_modules=("q", "v", "o", "wi_0", "wo")), True),
    "rslora": (pj.LoraConfig(r=4, use_rslora=True, lora_dropout=0.1), True),
    "dora": (pj.LoraConfig(r=2, use_dora=True, target_modules=("q", "o")), False),
    "ia3": (pj.IA3Config(), True),
    "houlsby": (pj.AdapterConfig(bottleneck_size=3, style="houlsby"), True),
    "pfeiffer": (pj.AdapterConfig(bottleneck_size=3), True),
    "parallel": (pj.AdapterConfig(bottleneck_size=3, style="parallel", scaling=2.0), True),
    "prompt_adapter": (pj.PromptAdapterConfig(num_virtual_tokens=P), True),
    "bias": (pj.BiasConfig(), True),
    "norm": (pj.NormConfig(), True),
    "full": (pj.FullConfig(), True),
    "mam": (mam(num_virtual_tokens=P, bottleneck_size=3), False),
    "unipelt": (unipelt(num_virtual_tokens=P, r=2, bottleneck_size=3), False),
}
# One of each kind of socket at every run of the tests, the rest with the slow ones.
QUICK = {"prompt_both", "p_tuning_lstm", "deep_replace", "multitask_multiply", "ia3", "unipelt"}
every = pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)


def case(name, backbone, seed=0):
    config = CASES[name][0]
    return config, init(config, backbone, jax.random.key(seed))


def batch_of(seed=0, rows=4, text=6, target=3):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, text + 1, rows)
    mask = np.arange(text) < lengths[:, None]
    return Batch(
        np.where(mask, rng.integers(2, 30, (rows, text)), 0).astype(np.int32),
        mask,
        rng.integers(2, 30, (rows, target), np.int32),
        np.ones((rows, target), bool),
        rng.integers(0, 3, rows, np.int32),
    )


_logits = jax.jit(seq2seq_logits, static_argnums=0)
_prefill = jax.jit(prefill, static_argnums=0, static_argnames=("placement", "length"))
_decode = jax.jit(decode_token, static_argnums=0)


def logits_of(backbone, injection, batch):
    arrays = (batch.tokens, batch.mask, batch.targets)
    return _logits(backbone.module, backbone.params, injection, *arrays)


def gradient(config, backbone):
    return jax.jit(jax.grad(loss_fn(config, backbone), has_aux=True))


_trees = {}


def trained(name, backbone, seed=0):
    """A tree that has left its start, so that nothing in it is zero by construction."""
    if (name, seed) not in _trees:
        config, tuned = case(name, backbone, seed)
        options = TrainConfig(steps=3, batch_size=4, optimizer="adamw", learning_rate=1e-2)
        step = compiled(name, backbone, options)
        state = start(tuned, options)
        for i in range(3):
            state, _ = step(state, backbone.params, batch_of(i))
        _trees[name, seed] = jax.tree.map(np.asarray, state.tuned)
    return CASES[name][0], jax.tree.map(jnp.asarray, _trees[name, seed])


_steps = {}


def compiled(name, backbone, options):
    if (name, options) not in _steps:
        _steps[name, options] = compile_step(loss_fn(CASES[name][0], backbone), options)
    return _steps[name, options]


def test_every_method_is_here():
    assert {config.kind for config, _ in CASES.values()} == set(METHOD_KINDS)
    assert {type(config) for config, _ in CASES.values()} == set(methods.METHODS)


@every
def test_gradient_and_tuned_tree_are_alike_and_every_leaf_is_alive(name, tiny):
    config, tuned = trained(name, tiny)
    grads = gradient(config, tiny)(tuned, tiny.params, batch_of())[0]
    assert jax.tree.structure(grads) == jax.tree.structure(tuned)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tuned))
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.isfinite(leaf).all() and (np.abs(leaf) > 0).any(), jax.tree_util.keystr(path)


@every
def test_the_loss_falls_and_the_frozen_tree_stays(name, tiny):
    config, tuned = case(name, tiny)
    before = jax.tree.map(np.array, tiny.params)
    options = TrainConfig(steps=3, batch_size=4, optimizer="adamw", learning_rate=1e-2)
    # The schedule ends after 3 steps, so the state starts anew every other step.
    losses, batch = [], batch_of()
    for _ in range(8):
        state = start(tuned, options)
        for _ in range(2):
            state, row = compiled(name, tiny, options)(state, tiny.params, batch)
            losses.append(float(row["loss"]))
        tuned = jax.tree.map(jnp.array, state.tuned)
    assert losses[-1] < losses[0] - 0.01
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, tiny.params))


@every
def test_a_fresh_tree_that_changes_nothing_is_the_plain_backbone(name, tiny):
    config, tuned = case(name, tiny)
    batch = batch_of()
    ours = logits_of(tiny, for_tasks(materialize(config, tuned), batch.task_ids), batch)
    plain = logits_of(tiny, None, batch)
    if CASES[name][1]:
        np.testing.assert_array_equal(ours, plain)
    elif name == "dora":  # Its factor is a quotient of equal norms, rounded.
        np.testing.assert_allclose(ours, plain, atol=1e-5)
    else:
        assert not np.array_equal(ours, plain)


@every
@pytest.mark.slow
def test_n_trees_by_vmap_are_n_runs(name, tiny):
    batch = batch_of()
    many = [trained(name, tiny, seed=k)[1] for k in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    grad = gradient(CASES[name][0], tiny)
    together = jax.jit(jax.vmap(grad, in_axes=(0, None, None)))(stacked, tiny.params, batch)[0]
    for k, tuned in enumerate(many):
        alone = grad(tuned, tiny.params, batch)[0]
        jax.tree.map(
            lambda a, b, k=k: np.testing.assert_allclose(a[k], b, atol=2e-5, rtol=1e-4),
            together,
            alone,
        )


@every
@pytest.mark.slow
def test_layers_apart_are_layers_scanned(name, tiny):
    config, tuned = trained(name, tiny)
    apart = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, scan=False))
    grads = [
        gradient(config, backbone)(tuned, params, batch_of())[0]
        for backbone, params in ((tiny, tiny.params), (apart, apart.unstacked()))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), *grads)


@every
def test_saved_and_loaded_it_gives_the_same_logits(name, tiny, tmp_path):
    config, tuned = trained(name, tiny)
    prompt = load_prompt(save_prompt(tmp_path / "p", prompt_for(tuned, config, tiny)))
    batch = batch_of()
    ours, again = (
        logits_of(tiny, for_tasks(injection, batch.task_ids), batch)
        for injection in (materialize(config, tuned), prompt.injection())
    )
    np.testing.assert_allclose(ours, again, atol=1e-6)
    training, method = prompt.training, prompt.trained_as
    if training is None:
        training, method = prompt.tuned, prompt.method
    assert method == config
    jax.tree.map(np.testing.assert_array_equal, training, jax.tree.map(np.asarray, tuned))


@every
@pytest.mark.slow
def test_cached_decoding_is_uncached(name, tiny):
    config, tuned = trained(name, tiny)
    batch = batch_of(target=5)
    injection = for_tasks(materialize(config, tuned), None)
    start_id = tiny.config.decoder_start_token_id
    targets = np.pad(batch.targets, ((0, 0), (1, 0)), constant_values=start_id)[:, :-1]
    batch = batch._replace(targets=targets.astype(np.int32))
    whole = logits_of(tiny, injection, batch)
    arguments = (tiny.module, tiny.params, injection)
    first = _prefill(*arguments, batch.tokens, batch.mask, placement="prefix", length=5)
    np.testing.assert_allclose(first.logits, whole[:, 0], atol=1e-4)
    cache = first.cache
    for i in range(1, 5):
        token = jnp.asarray(batch.targets[:, i])
        logits, cache = _decode(*arguments, token, first.mask, cache, jnp.int32(i))
        np.testing.assert_allclose(logits, whole[:, i], atol=1e-4)


@every
@pytest.mark.slow
def test_stopped_and_resumed_is_never_stopped(name, tiny):
    config, tuned = case(name, tiny)
    options = TrainConfig(steps=3, batch_size=4, optimizer="adamw", learning_rate=1e-2)
    batches = [batch_of(i) for i in range(4)]
    loss, step = loss_fn(config, tiny), compiled(name, tiny, options)
    whole = fit(loss, start(tuned, options), tiny.params, batches, options, step_fn=step)
    half = fit(loss, start(tuned, options), tiny.params, batches[:2], options, step_fn=step)
    half = jax.tree.map(jnp.asarray, jax.tree.map(np.array, half))
    rest = fit(loss, half, tiny.params, batches[2:], options, step_fn=step)
    jax.tree.map(np.testing.assert_array_equal, whole, rest)


@pytest.mark.parametrize("name", ["p_tuning_mlp", "p_tuning_lstm", "residual", "prefix_mlp"])
def test_what_was_written_is_a_simpler_method(name, tiny):
    config, tuned = trained(name, tiny)
    plain, tree = simplify(config, tuned)
    assert plain.kind in ("prompt_tuning", "prefix_tuning") and plain != config
    assert simplify(plain, tree)[0] == plain
    batch = batch_of()
    np.testing.assert_allclose(
        logits_of(tiny, materialize(plain, tree), batch),
        logits_of(tiny, materialize(config, tuned), batch),
        atol=1e-6,
    )
