"""Attention in one kernel: the same numbers as products, and products where it cannot serve.

Here they are interpreted, or those of XLA; `test_a_tpu_has_its_kernel` compiles one for a TPU.
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

import prompt_jax as pj
from prompt_jax.backbones import fused, relative
from prompt_jax.backbones.attention import attend
from prompt_jax.backbones.blocks import relative_buckets
from prompt_jax.backbones.layers import NEVER, ByBucket, Causal
from prompt_jax.backbones.t5 import T5Config
from prompt_jax.config import InputError
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init
from prompt_jax.sharding import AXES
from prompt_jax.testing import random_backbone, random_batch
from prompt_jax.weights import kernel_on

RUNS = {
    "splash": functools.partial(fused.splash, interpret=True),
    "cudnn": functools.partial(fused.cudnn, implementation="xla"),
    "relative": functools.partial(fused.relative, interpret=True),
}
OPTIONS = {"splash": "pallas", "relative": "pallas", "cudnn": "cudnn"}
"""What a user asks for -> the kernel that serves."""
B, T, H, G, K, P = 2, 40, 4, 2, 8, 3
BUCKETS = jnp.zeros((B, T, T), int)
T5S = {
    "query": jnp.zeros((B, T, H, 64)),
    "biases": [jnp.zeros((B, 1, 1, T)), ByBucket(jnp.zeros((6, H)), BUCKETS[0])],
}
"""A call of a T5's encoder."""
WIDE = T5Config(
    vocab_size=64, d_model=16, d_kv=64, d_ff=32, num_heads=4, num_layers=2, num_decoder_layers=2
)
"""A T5 whose heads fill tiles of a TPU."""


@pytest.fixture(scope="module")
def wide_t5():
    return random_backbone(WIDE, name="wide_t5")


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("mask", ["causal", "full"])
@pytest.mark.parametrize(
    ("kernel", "cap"),
    [
        ("cudnn", None),
        pytest.param("splash", None, marks=pytest.mark.slow),
        pytest.param("splash", 5.0, marks=pytest.mark.slow),
    ],
)
def test_answers_and_gradients_are_those_of_products(kernel, cap, mask):
    """Behind a prefix, with padding on both sides, and heads of queries that share keys."""
    real = np.ones((B, P + T), bool)
    real[0, P + 6 :] = real[1, P : P + 2] = False
    bias = (
        Causal(jnp.asarray(real)) if mask == "causal" else jnp.where(real, 0.0, -1e9)[:, None, None]
    )
    # Nobody reads the answers to queries that are padding.
    weights = normal(0, B, T, H, K) * real[:, P:, None, None]

    def answer(inputs, run):
        query, key, value, prefix = inputs
        if run is None:
            out = attend(query, key, value, [bias], prefix, cap=cap)
        else:
            out = run(query, *fused.joined(key, value, prefix), [bias], P, cap)
        return (out * weights).sum(), out * (weights != 0)

    prefix = {"key": normal(1, P, G, K), "value": normal(2, P, G, K)}
    inputs = normal(3, B, T, H, K), normal(4, B, T, G, K), normal(5, B, T, G, K), prefix
    run = jax.jit(jax.grad(answer, has_aux=True), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        *(run(inputs, way) for way in (RUNS[kernel], None)),
    )


def by_distance(table, virtual, queries=T):
    keys = jnp.arange(-virtual, queries)
    buckets = relative_buckets(
        jnp.arange(queries), keys, bidirectional=True, buckets=len(table), max_distance=9
    )
    return ByBucket(table, buckets)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "dtype", "rows"),
    [(1, "bfloat16", ()), (2, "float32", ()), (1, "float32", (B,))],
    ids=["bfloat16", "two_blocks", "a_prefix_a_row"],
)
def test_a_kernel_makes_biases_of_distances(blocks, dtype, rows, monkeypatch):
    """T5's, with padding and a prefix, and the gradient of a table that is trained."""
    texts, heads, width = 20, 4, 32
    # Of 16 queries and 128 keys at a time, where there is no room for more.
    monkeypatch.setattr(relative, "SCORES", 128 * 20 // blocks)
    real = np.ones((B, P + texts), bool)
    real[0, P + 6 :] = False
    hidden = jnp.where(real, 0.0, NEVER)[:, None, None]
    weights = normal(0, B, texts, heads, width) * real[:, P:, None, None]

    def answer(inputs, table, run):
        query, key, value, prefix = inputs
        biases = [hidden, by_distance(table, P, texts)]
        if run is None:
            out = attend(query, key, value, biases, prefix)
        else:
            out = run(query, *fused.joined(key, value, prefix), biases, P)
        out = out.astype(jnp.float32)
        return (out * weights).sum(), out * (weights != 0)

    states = [normal(i, B, texts, heads, width) for i in range(3)]
    prefix = {name: normal(i, *rows, P, heads, width) for i, name in enumerate(("key", "value"), 3)}
    inputs = jax.tree.map(lambda x: x.astype(dtype), (*states, prefix))
    table = normal(6, 6, heads)
    # Products round what they weigh to eight bits of their own.
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == "float32" else {"atol": 2e-2, "rtol": 2e-2}
    for trained in (0, 1):
        run = jax.jit(jax.grad(answer, trained, has_aux=True), static_argnums=2)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(
                a.astype(np.float32), b.astype(np.float32), **close
            ),
            *(run(inputs, table, way) for way in (RUNS["relative"], None)),
        )


@pytest.mark.parametrize(
    ("kernel", "changes", "served"),
    [
        ("cudnn", {}, True),
        ("cudnn", {"biases": [jnp.zeros((B, 1, T, T))]}, True),
        ("cudnn", {"cap": 5.0}, False),
        ("cudnn", {"query": jnp.zeros((B, T, H, K))}, False),
        ("cudnn", {"query": jnp.zeros((B, T, H, 6), jnp.bfloat16)}, False),
        ("splash", {}, True),
        ("splash", {"cap": 5.0}, True),
        ("splash", {"biases": [jnp.zeros((B, 1, T, T))]}, False),
        ("splash", {"biases": [Causal(jnp.ones((B, T), bool))]}, True),
        ("einsum", {}, False),
        *[
            (kernel, changes, False)
            for kernel in RUNS
            for changes in (
                {"biases": [by_distance(jnp.zeros((6, H)), 0)]},
                {"biases": [jnp.zeros((B, 1, 1, T))] * 2},
                {"query": jnp.zeros((B, 4, H, K), jnp.bfloat16)},
                {"prefix": {"mask": jnp.ones((B, P), bool)}},
                {"mesh": AbstractMesh((1, 1, 2), AXES)},
            )
            if kernel != "relative"
        ],
        *[
            ("relative", T5S | changes, served)
            for changes, served in (
                ({}, True),
                ({"mesh": AbstractMesh((2, 1, 2), AXES)}, True),
                # Two devices would have half a tile each.
                ({"mesh": AbstractMesh((1, 1, 4), AXES)}, False),
                ({"cap": 5.0}, False),
                ({"query": jnp.zeros((B, T, H, 48))}, False),
                ({"query": jnp.zeros((B, 4, H, 64))}, False),
                ({"prefix": {"mask": jnp.ones((B, P), bool)}}, False),
                ({"biases": [jnp.zeros((B, 1, T, T)), T5S["biases"][1]]}, False),
                # Buckets of a decoder, a row of places each.
                ({"biases": [T5S["biases"][0], ByBucket(jnp.zeros((6, H)), BUCKETS)]}, False),
                # Biases of so many places do not fit.
                ({"biases": [T5S["biases"][0], by_distance(jnp.zeros((6, H)), 0, 1500)]}, False),
            )
        ],
    ],
)
def test_which_calls_a_kernel_serves(kernel, changes, served):
    call = {
        "query": jnp.zeros((B, T, H, K), jnp.bfloat16),
        **{"biases": [jnp.zeros((B, 1, 1, T))], "prefix": None, "cap": None},
    }
    run = fused.kernel_of(OPTIONS.get(kernel, kernel), **call | changes)
    run = run.func if isinstance(run, functools.partial) else run
    assert run is (getattr(fused, kernel) if served else None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kernel", "method"),
    [
        ("tiny_llama", "splash", pj.PromptTuningConfig(num_virtual_tokens=3)),
        ("tiny_llama", "splash", pj.PrefixTuningConfig(num_virtual_tokens=3)),
        ("tiny_llama", "cudnn", pj.PrefixTuningConfig(num_virtual_tokens=3)),
        ("tiny_bert", "splash", pj.PrefixTuningConfig(num_virtual_tokens=3)),
        ("wide_t5", "relative", pj.PromptTuningConfig(num_virtual_tokens=3)),
        ("wide_t5", "relative", pj.FullConfig()),
    ],
)
def test_a_model_with_a_kernel_is_the_model(family, kernel, method, request, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(kernel)
        return RUNS[kernel](*arguments, **options)

    monkeypatch.setattr(fused, kernel, counted)
    backbone = request.getfixturevalue(family)
    method = dataclasses.replace(method, task_type=backbone.task_types[0])
    tuned = init(method, backbone, jax.random.key(1))
    batch = random_batch(backbone, text=T, target=1 if family == "tiny_bert" else 4)
    dtype = jnp.bfloat16 if kernel == "cudnn" else jnp.float32

    def step(attention):
        shape = dataclasses.replace(backbone.config, attention=attention, dtype=dtype)
        run = loss_fn(method, dataclasses.replace(backbone, config=shape))
        return jax.jit(jax.value_and_grad(lambda *a: run(*a)[0]))(tuned, backbone.params, batch)

    products = step("einsum")
    assert not calls
    close = {"atol": 1e-5} if dtype == jnp.float32 else {"atol": 2e-2}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **close), step(OPTIONS[kernel]), products
    )
    assert calls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "task", "kernels"),
    # Forward and both halves of the backward pass; forward and backward.
    [("tiny_llama", "CAUSAL_LM", 3), ("wide_t5", "SEQ_2_SEQ_LM", 2)],
)
def test_a_tpu_has_its_kernel(family, task, kernels, request):
    """Compiled by libtpu."""
    pytest.importorskip("libtpu")
    from prompt_jax.plan.chips import compile_for, devices_of

    devices = devices_of("v5e-1")
    place = jax.sharding.SingleDeviceSharding(devices[0])
    backbone = request.getfixturevalue(family)
    shape = dataclasses.replace(backbone.config, attention="pallas", dtype=jnp.bfloat16)
    method = pj.PromptTuningConfig(num_virtual_tokens=3, task_type=task)
    tuned = init(method, backbone, jax.random.key(0))
    run = loss_fn(method, dataclasses.replace(backbone, config=shape))
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        (tuned, backbone.params, random_batch(backbone, text=T)),
    )
    step = jax.jit(jax.grad(lambda *a: run(*a)[0])).lower(*arguments)
    assert compile_for(devices, step).as_text().count("tpu_custom_call") == kernels


@pytest.mark.parametrize(
    ("platform", "capability", "kernel"),
    [
        ("cpu", None, "einsum"),
        ("tpu", None, "pallas"),
        ("gpu", "9.0", "cudnn"),
        ("gpu", "7.5", "einsum"),
        ("gpu", "gfx90a", "einsum"),
    ],
)
def test_auto_is_the_kernel_of_the_device(platform, capability, kernel):
    fields = {"platform": platform, "compute_capability": capability}
    device = SimpleNamespace(**fields, device_kind="a device")
    assert kernel_on(device, "auto") == kernel
    assert kernel_on(device, "einsum") == "einsum"
    foreign = "cudnn" if kernel == "pallas" else "pallas"
    with pytest.raises(InputError, match=f"{foreign} does not run on a device, which has {kernel}"):
        kernel_on(device, foreign)
