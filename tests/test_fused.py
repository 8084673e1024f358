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

import prompt_jax as pj
from prompt_jax.backbones import fused
from prompt_jax.backbones.attention import attend
from prompt_jax.backbones.layers import ByBucket, Causal
from prompt_jax.config import InputError
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init
from prompt_jax.testing import random_batch
from prompt_jax.weights import kernel_on

RUNS = {
    "splash": functools.partial(fused.splash, interpret=True),
    "cudnn": functools.partial(fused.cudnn, implementation="xla"),
}
B, T, H, G, K, P = 2, 9, 4, 2, 8, 3


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
            out = run(query, *fused.joined(key, value, prefix), bias, P, cap)
        return (out * weights).sum(), out * (weights != 0)

    prefix = {"key": normal(1, P, G, K), "value": normal(2, P, G, K)}
    inputs = normal(3, B, T, H, K), normal(4, B, T, G, K), normal(5, B, T, G, K), prefix
    run = jax.jit(jax.grad(answer, has_aux=True), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        *(run(inputs, way) for way in (RUNS[kernel], None)),
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
                {"biases": [ByBucket(jnp.zeros((6, H)), jnp.zeros((T, T), int))]},
                {"biases": [jnp.zeros((B, 1, 1, T))] * 2},
                {"query": jnp.zeros((B, 1, H, K), jnp.bfloat16)},
                {"prefix": {"mask": jnp.ones((B, P), bool)}},
            )
        ],
    ],
)
def test_which_calls_a_kernel_serves(kernel, changes, served):
    call = {
        "query": jnp.zeros((B, T, H, K), jnp.bfloat16),
        **{"biases": [jnp.zeros((B, 1, 1, T))], "prefix": None, "cap": None},
    }
    run = fused.kernel_of(kernel, **call | changes)
    assert run is (getattr(fused, kernel) if served else None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kernel", "method"),
    [
        ("tiny_llama", "splash", pj.PromptTuningConfig(num_virtual_tokens=3)),
        ("tiny_llama", "splash", pj.PrefixTuningConfig(num_virtual_tokens=3)),
        ("tiny_llama", "cudnn", pj.PrefixTuningConfig(num_virtual_tokens=3)),
        ("tiny_bert", "splash", pj.PrefixTuningConfig(num_virtual_tokens=3)),
    ],
)
def test_a_model_with_a_kernel_is_the_model(family, kernel, method, request, monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(kernel)
        return RUNS[kernel](*arguments)

    monkeypatch.setattr(fused, kernel, counted)
    backbone = request.getfixturevalue(family)
    method = dataclasses.replace(method, task_type=backbone.task_types[0])
    tuned = init(method, backbone, jax.random.key(1))
    batch = random_batch(backbone, text=9, target=1 if family == "tiny_bert" else 4)
    dtype = jnp.bfloat16 if kernel == "cudnn" else jnp.float32

    def step(attention):
        shape = dataclasses.replace(backbone.config, attention=attention, dtype=dtype)
        run = loss_fn(method, dataclasses.replace(backbone, config=shape))
        return jax.jit(jax.value_and_grad(lambda *a: run(*a)[0]))(tuned, backbone.params, batch)

    products = step("einsum")
    assert not calls
    close = {"atol": 1e-5} if dtype == jnp.float32 else {"atol": 2e-2}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), step(kernel), products)
    assert calls


@pytest.mark.slow
def test_a_tpu_has_its_kernel(tiny_llama):
    """Forward and both halves of the backward pass, compiled by libtpu."""
    pytest.importorskip("libtpu")
    from prompt_jax.plan.chips import devices_of

    place = jax.sharding.SingleDeviceSharding(devices_of("v5e-1")[0])
    shape = dataclasses.replace(tiny_llama.config, attention="splash", dtype=jnp.bfloat16)
    method = pj.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    tuned = init(method, tiny_llama, jax.random.key(0))
    run = loss_fn(method, dataclasses.replace(tiny_llama, config=shape))
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        (tuned, tiny_llama.params, random_batch(tiny_llama)),
    )
    step = jax.jit(jax.grad(lambda *a: run(*a)[0])).lower(*arguments).compile()
    assert step.as_text().count("tpu_custom_call") == 3


@pytest.mark.parametrize(
    ("platform", "capability", "kernel"),
    [
        ("cpu", None, "einsum"),
        ("tpu", None, "splash"),
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
    foreign = "cudnn" if kernel == "splash" else "splash"
    with pytest.raises(InputError, match=f"{foreign} does not run on a device, which has {kernel}"):
        kernel_on(device, foreign)
