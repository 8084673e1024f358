"""What every method must do, on every kind of backbone."""

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
from prompt_jax.losses import loss_fn, target_logits
from prompt_jax.methods import for_tasks, init, mam, materialize, resolve, simplify, unipelt
from prompt_jax.prompts import load_prompt, prompt_for, save_prompt
from prompt_jax.train import compile_step, fit, start

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
QUICK = {"prompt_both", "ia3", "prefix"}
# What needs two stacks.
OF_TWO = {"prompt_decoder", "prompt_both", "prefix_encoder"}
TARGETS = {
    "tiny_gpt2": {"q": "c_attn", "k": "c_attn", "v": "c_attn", "o": "attn.c_proj"}
    | {"wi_0": "c_fc", "wo": "mlp.c_proj"},
    "tiny_bert": {"q": "query", "k": "key", "v": "value", "o": "attention.output.dense"}
    | {"wi_0": "intermediate.dense", "wo": "output.dense"},
    "tiny_llama": {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
    | {"wi_0": "gate_proj", "wo": "down_proj"},
}
# Ways to come by the vectors or kernels of another case, which know nothing of the model's family.
WRITTEN = {"p_tuning_mlp", "p_tuning_lstm", "prefix_mlp", "residual", "decomposed", "rslora"} | {
    name for name in CASES if name.startswith("multitask")
}
# On a Llama, which shares its file with GPT-2, one of each kind that its heads or names concern.
OF_LLAMA = {"prompt", "prefix", "lora", "ia3", "deep_replace"}


def _cases(*families, written=True):
    of_one = set(CASES) - OF_TWO - WRITTEN
    fit = {"t5": set(CASES) - (set() if written else WRITTEN), "gpt2": of_one}
    fit |= {"llama": OF_LLAMA, "bert": of_one | {"prefix_encoder"}}
    return pytest.mark.parametrize(
        ("backbone", "name"),
        [
            pytest.param(
                "tiny" if family == "t5" else f"tiny_{family}",
                name,
                id=f"{family}-{name}",
                marks=() if family == "t5" and name in QUICK else pytest.mark.slow,
            )
            for family in families
            for name in CASES
            if name in fit[family]
        ],
        indirect=["backbone"],
    )


every = _cases("t5", "gpt2", "llama", "bert")
on_t5 = _cases("t5")
# For what sees vectors and kernels alone, however they came about.
injected = _cases("t5", written=False)
writers = _cases("t5", "gpt2", "llama", written=False)


@pytest.fixture
def backbone(request):
    return request.getfixturevalue(request.param)


def config_of(name, backbone):
    """The case, with the names that the backbone has for kernels."""
    names = TARGETS.get(backbone.name, {})
    return resolve(_renamed(CASES[name][0], names, backbone.task_types[0]), backbone)


def _renamed(config, names, task_type):
    fields = ("target_modules", "feedforward_modules")
    changes = {
        field: tuple(dict.fromkeys(names.get(n, n) for n in getattr(config, field)))
        for field in fields
        if hasattr(config, field)
    }
    if hasattr(config, "methods"):
        changes["methods"] = tuple(_renamed(m, names, task_type) for m in config.methods)
    return dataclasses.replace(config, task_type=task_type, **changes)


def case(name, backbone, seed=0):
    config = config_of(name, backbone)
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


_logits = jax.jit(target_logits, static_argnums=0)
_prefill = jax.jit(prefill, static_argnums=0, static_argnames="length")
_decode = jax.jit(decode_token, static_argnums=0)


def logits_of(backbone, injection, batch):
    arrays = (batch.tokens, batch.mask, batch.targets)
    return _logits(backbone.module, backbone.params, injection, *arrays)


_gradients = {}


def gradient(config, backbone):
    """One function for every test of a method: its program is compiled once."""
    key = (config, backbone.config)
    if key not in _gradients:
        _gradients[key] = jax.jit(jax.grad(loss_fn(config, backbone), has_aux=True))
    return _gradients[key]


_trees = {}


def trained(name, backbone, seed=0):
    """A tree that has left its start, so that nothing in it is zero by construction."""
    if (backbone.name, name, seed) not in _trees:
        config, tuned = case(name, backbone, seed)
        options = TrainConfig(steps=3, batch_size=4, optimizer="adamw", learning_rate=1e-2)
        step = compiled(name, backbone, options)
        state = start(tuned, options)
        for i in range(3):
            state, _ = step(state, backbone.params, batch_of(i))
        _trees[backbone.name, name, seed] = jax.tree.map(np.asarray, state.tuned)
    return config_of(name, backbone), jax.tree.map(jnp.asarray, _trees[backbone.name, name, seed])


_steps = {}


def compiled(name, backbone, options):
    key = (backbone.name, name, options)
    if key not in _steps:
        _steps[key] = compile_step(loss_fn(config_of(name, backbone), backbone), options)
    return _steps[key]


def test_every_method_is_here():
    """But a head alone, which test_heads.py tries."""
    assert {config.kind for config, _ in CASES.values()} == set(METHOD_KINDS) - {"head"}
    assert {type(config) for config, _ in CASES.values()} == set(methods.METHODS) - {pj.HeadConfig}


@every
def test_gradient_and_tuned_tree_are_alike_and_every_leaf_is_alive(name, backbone):
    config, tuned = trained(name, backbone)
    grads = gradient(config, backbone)(tuned, backbone.params, batch_of())[0]
    assert jax.tree.structure(grads) == jax.tree.structure(tuned)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tuned))
    grads.pop("pooler", None)  # Of a BERT tuned whole: a head would read it, a cloze does not.
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.isfinite(leaf).all() and (np.abs(leaf) > 0).any(), jax.tree_util.keystr(path)


@on_t5
def test_the_loss_falls_and_the_frozen_tree_stays(name, backbone):
    config, tuned = case(name, backbone)
    before = jax.tree.map(np.array, backbone.params)
    options = TrainConfig(steps=3, batch_size=4, optimizer="adamw", learning_rate=1e-2)
    # The schedule ends after 3 steps, so the state starts anew every other step.
    losses, batch = [], batch_of()
    for _ in range(8):
        state = start(tuned, options)
        for _ in range(2):
            state, row = compiled(name, backbone, options)(state, backbone.params, batch)
            losses.append(float(row["loss"]))
        tuned = jax.tree.map(jnp.array, state.tuned)
    assert losses[-1] < losses[0] - 0.01
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, backbone.params))


@every
def test_a_fresh_tree_that_changes_nothing_is_the_plain_backbone(name, backbone):
    config, tuned = case(name, backbone)
    batch = batch_of()
    ours = logits_of(backbone, for_tasks(materialize(config, tuned), batch.task_ids), batch)
    plain = logits_of(backbone, None, batch)
    if CASES[name][1]:
        np.testing.assert_array_equal(ours, plain)
    elif name == "dora":  # Its factor is a quotient of equal norms, rounded.
        np.testing.assert_allclose(ours, plain, atol=1e-5)
    else:
        assert not np.array_equal(ours, plain)


@on_t5
@pytest.mark.slow
def test_n_trees_by_vmap_are_n_runs(name, backbone):
    batch = batch_of()
    many = [trained(name, backbone, seed=k)[1] for k in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    grad = gradient(config_of(name, backbone), backbone)
    together = jax.jit(jax.vmap(grad, in_axes=(0, None, None)))(stacked, backbone.params, batch)[0]
    for k, tuned in enumerate(many):
        alone = grad(tuned, backbone.params, batch)[0]
        jax.tree.map(
            lambda a, b, k=k: np.testing.assert_allclose(a[k], b, atol=2e-5, rtol=1e-4),
            together,
            alone,
        )


@injected
@pytest.mark.slow
def test_layers_apart_are_layers_scanned(name, backbone):
    config, tuned = trained(name, backbone)
    apart = dataclasses.replace(backbone, config=dataclasses.replace(backbone.config, scan=False))
    grads = [
        gradient(config, model)(tuned, params, batch_of())[0]
        for model, params in ((backbone, backbone.params), (apart, apart.unstacked()))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), *grads)


@on_t5
def test_saved_and_loaded_it_gives_the_same_logits(name, backbone, tmp_path):
    config, tuned = trained(name, backbone)
    prompt = load_prompt(save_prompt(tmp_path / "p", prompt_for(tuned, config, backbone)))
    batch = batch_of()
    ours, again = (
        logits_of(backbone, for_tasks(injection, batch.task_ids), batch)
        for injection in (materialize(config, tuned), prompt.injection())
    )
    np.testing.assert_allclose(ours, again, atol=1e-6)
    training, method = prompt.training, prompt.trained_as
    if training is None:
        training, method = prompt.tuned, prompt.method
    assert method == config
    jax.tree.map(np.testing.assert_array_equal, training, jax.tree.map(np.asarray, tuned))


@writers
@pytest.mark.slow
def test_cached_decoding_is_uncached(name, backbone):
    config, tuned = trained(name, backbone)
    batch = batch_of(target=5)
    injection = for_tasks(materialize(config, tuned), 0)
    whole = logits_of(backbone, injection, batch)
    arguments = (backbone.module, backbone.params, injection)
    first = _prefill(*arguments, batch.tokens, batch.mask, length=5)
    np.testing.assert_allclose(first.logits, whole[:, 0], atol=1e-4)
    cache = first.cache
    for i in range(1, 5):
        token = jnp.asarray(batch.targets[:, i - 1])
        logits, cache = _decode(*arguments, token, first.mask, cache, jnp.int32(i))
        np.testing.assert_allclose(logits, whole[:, i], atol=1e-4)


@on_t5
@pytest.mark.slow
def test_stopped_and_resumed_is_never_stopped(name, backbone):
    config, tuned = case(name, backbone)
    options = TrainConfig(steps=3, batch_size=4, optimizer="adamw", learning_rate=1e-2)
    batches = [batch_of(i) for i in range(4)]
    loss, step = loss_fn(config, backbone), compiled(name, backbone, options)
    whole = fit(loss, start(tuned, options), backbone.params, batches, options, step_fn=step)
    half = fit(loss, start(tuned, options), backbone.params, batches[:2], options, step_fn=step)
    half = jax.tree.map(jnp.asarray, jax.tree.map(np.array, half))
    rest = fit(loss, half, backbone.params, batches[2:], options, step_fn=step)
    jax.tree.map(np.testing.assert_array_equal, whole, rest)


SIMPLIFIED = ("p_tuning_lstm", "residual", "prefix_mlp")


@pytest.mark.parametrize(
    "name", ["p_tuning_mlp", *(pytest.param(n, marks=pytest.mark.slow) for n in SIMPLIFIED)]
)
def test_what_was_written_is_a_simpler_method(name, tiny):
    backbone = tiny
    config, tuned = trained(name, backbone)
    plain, tree = simplify(config, tuned)
    assert plain.kind in ("prompt_tuning", "prefix_tuning") and plain != config
    assert simplify(plain, tree)[0] == plain
    batch = batch_of()
    np.testing.assert_allclose(
        logits_of(backbone, materialize(plain, tree), batch),
        logits_of(backbone, materialize(config, tuned), batch),
        atol=1e-6,
    )
