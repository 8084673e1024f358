"""Gates of a union: what they let through, and what they may not look at."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax.config import InputError
from prompt_jax.forward import PromptedModel
from prompt_jax.methods import init, materialize, unipelt

TOKENS = np.array([[5, 9, 33, 2], [7, 8, 0, 0]], np.int32)
MASK = TOKENS > 0
TARGETS = np.array([[4, 6], [11, 3]], np.int32)
OTHERS = ("tiny", "tiny_gpt2", "tiny_bert")
BACKBONES = ["tiny_llama", *[pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]]
ADDED = pj.UnionConfig(
    methods=(pj.LoraConfig(r=2), pj.AdapterConfig(bottleneck_size=3)), gated=True
)


@pytest.fixture(params=BACKBONES)
def backbone(request):
    return request.getfixturevalue(request.param)


def with_task(config, backbone):
    task = {"task_type": backbone.task_types[0]}
    parts = tuple(dataclasses.replace(method, **task) for method in config.methods)
    return dataclasses.replace(config, methods=parts, **task)


def noisy(config, backbone, seed=0):
    """A tree of which no leaf is zero by construction."""
    tuned = init(config, backbone, jax.random.key(seed))
    keys = iter(jax.random.split(jax.random.key(seed + 1), 1000))
    return jax.tree.map(lambda v: v + 0.3 * jax.random.normal(next(keys), v.shape), tuned)


def gates_at(bias, tuned):
    """The tree with all gates where a bias so large puts them."""

    def at(path, leaf):
        return jnp.full_like(leaf, bias if path[-1].key == "gate_bias" else 0.0)

    return {**tuned, "gates": jax.tree.map_with_path(at, tuned["gates"])}


_logits = jax.jit(PromptedModel.target_logits)


def logits(backbone, injection, tokens=TOKENS, mask=MASK, targets=TARGETS):
    model = PromptedModel(backbone.module, backbone.params, injection)
    return _logits(model, tokens, mask, targets)


def test_open_gates_are_no_gates_and_closed_ones_no_methods(backbone):
    config = with_task(unipelt(num_virtual_tokens=3, r=2, bottleneck_size=3), backbone)
    tuned = noisy(config, backbone)
    plain = dataclasses.replace(config, gated=False)
    own = {name: tree for name, tree in tuned.items() if name != "gates"}
    whole = logits(backbone, materialize(plain, own))
    np.testing.assert_allclose(
        logits(backbone, materialize(config, gates_at(50.0, tuned))), whole, atol=1e-5
    )
    # A prefix of zeros still takes its share of the attention, as in the paper.
    none = jax.tree.map(jnp.zeros_like, own)
    closed = logits(backbone, materialize(config, gates_at(-50.0, tuned)))
    np.testing.assert_allclose(closed, logits(backbone, materialize(plain, none)), atol=1e-5)
    half = logits(backbone, materialize(config, tuned))
    assert not np.allclose(half, whole, atol=1e-3) and not np.allclose(half, closed, atol=1e-3)


def test_a_fresh_union_that_only_adds_is_the_plain_backbone(tiny_llama):
    config = with_task(ADDED, tiny_llama)
    injection = materialize(config, init(config, tiny_llama, jax.random.key(0)))
    np.testing.assert_array_equal(logits(tiny_llama, injection), logits(tiny_llama, None))


def test_a_gate_looks_at_its_token_alone(tiny_llama):
    """Neither padding nor a later target opens it."""
    config = with_task(unipelt(num_virtual_tokens=3, r=2, bottleneck_size=3), tiny_llama)
    injection = materialize(config, noisy(config, tiny_llama))
    whole = logits(tiny_llama, injection)
    alone = logits(tiny_llama, injection, TOKENS[1:, :2], MASK[1:, :2], TARGETS[1:])
    np.testing.assert_allclose(whole[1:], alone, atol=1e-5)
    other = logits(tiny_llama, injection, targets=np.array([[4, 9], [11, 9]], np.int32))
    np.testing.assert_allclose(whole[:, :1], other[:, :1], atol=1e-5)


def test_rows_have_gates_of_their_own(tiny_llama):
    config = with_task(unipelt(num_virtual_tokens=3, r=2, bottleneck_size=3), tiny_llama)
    parts = [materialize(config, noisy(config, tiny_llama, seed)) for seed in (0, 5)]
    rows = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *parts)
    both = logits(tiny_llama, rows)
    for i, part in enumerate(parts):
        np.testing.assert_allclose(both[i], logits(tiny_llama, part)[i], atol=1e-5)


def test_what_has_no_gate_is_refused(tiny):
    bare = pj.UnionConfig(methods=(pj.BiasConfig(), pj.NormConfig()), gated=True)
    with pytest.raises(InputError, match="gates scale LoRA, prefixes and adapters, and this"):
        init(bare, tiny, jax.random.key(0))
    with pytest.raises(InputError, match="DoRA's magnitude knows one update only; set gated=False"):
        pj.UnionConfig(methods=(pj.LoraConfig(use_dora=True), pj.AdapterConfig()), gated=True)
