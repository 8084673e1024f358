"""Attention that answers some queries at a time: the same numbers, and less memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax.backbones import init_params
from prompt_jax.backbones.attention import Fresh, attend
from prompt_jax.backbones.layers import ByBucket
from prompt_jax.backbones.t5 import Module, T5Config
from prompt_jax.config import BackboneConfig, InputError
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init
from prompt_jax.testing import random_batch

METHODS = {
    "prompt": pj.PromptTuningConfig(num_virtual_tokens=3),
    "prefix": pj.PrefixTuningConfig(num_virtual_tokens=3),
    "lora": pj.LoraConfig(r=2),
}


def qkv(queries=7, keys=5):
    shapes = {"query": queries, "key": keys, "value": keys}
    numbers = zip(jax.random.split(jax.random.key(0), 3), shapes.values(), strict=True)
    return [jax.random.normal(key, (2, length, 3, 4)) for key, length in numbers]


@pytest.mark.parametrize("chunk", [1, 3, 6, 7])
def test_answers_and_gradients_are_those_of_all_queries_at_once(chunk):
    """Also with a prefix behind a gate, a bias a query, one by bucket, and an uneven last chunk."""
    keys = jax.random.split(jax.random.key(1), 5)
    prefix = {
        n: jax.random.normal(k, (2, 3, 4)) for n, k in zip(("key", "value"), keys, strict=False)
    }
    opened = jax.nn.sigmoid(jax.random.normal(keys[2], (2, 7)))
    buckets = jax.random.randint(keys[3], (7, 7), 0, 6)
    table, mask = jax.random.normal(keys[4], (6, 3)), jnp.where(jnp.arange(7) < 6, 0.0, -1e9)
    causal = jax.random.normal(keys[0], (1, 1, 7, 7))

    def answer(given, table, prefix, opened, chunk=None):
        biases = [mask[None, None, None], ByBucket(table, buckets), causal]
        out = attend(*given, biases, prefix, opened, chunk)
        return (out * jnp.arange(out.size).reshape(out.shape)).mean(), out

    run = jax.jit(jax.grad(answer, (0, 1, 2, 3), has_aux=True), static_argnames="chunk")
    given = (qkv(), table, prefix, opened)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        *(run(*given, chunk=chunk), run(*given)),
    )


def test_keys_that_a_cache_has_room_for_are_those_written_to_it():
    """Whatever the cache holds in their places, a prefix before them, and a cap on scores."""
    query, key, value = qkv(queries=2, keys=6)
    prefix = {name: jax.random.normal(jax.random.key(2), (3, 3, 4)) for name in ("key", "value")}
    # Two queries at places 3 and 4 of six; behind them there is nothing yet.
    seen = jnp.arange(9)[None, :] <= jnp.array([6, 7])[:, None]
    biases = [jnp.where(seen, 0.0, -1e9)[None, None]]
    fresh = Fresh(key[:, 3:5], value[:, 3:5], jnp.asarray(3))
    stale = [x.at[:, 3:].set(7.0) for x in (key, value)]
    ways = (query, *stale), (query, key, value)
    options = [{"fresh": fresh}, {}]
    outs = [
        jax.jit(functools.partial(attend, cap=2.0))(*way, biases, prefix, **rest)
        for way, rest in zip(ways, options, strict=True)
    ]
    np.testing.assert_allclose(*outs, atol=1e-6)


def with_config(backbone, **changes):
    return dataclasses.replace(backbone, config=dataclasses.replace(backbone.config, **changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method", "scan"),
    [
        *(("tiny", "prefix", True), ("tiny", "prompt", False), ("tiny", "lora", True)),
        *((name, method, True) for name in ("tiny_gpt2", "tiny_bert") for method in METHODS),
        *(("tiny_llama", "prefix", True), ("tiny_llama", "lora", False)),
    ],
)
def test_a_model_in_chunks_is_the_model(family, method, scan, request):
    whole = request.getfixturevalue(family)
    if hasattr(whole.config, "sliding_window"):
        whole = with_config(whole, sliding_window=3)
    asked = dataclasses.replace(METHODS[method], task_type=whole.task_types[0])
    tuned = init(asked, whole, jax.random.key(1))
    tuned = jax.tree.map(lambda x: x + 0.1, tuned)  # A LoRA starts as nothing.
    batch = random_batch(whole, text=9, target=1 if family == "tiny_bert" else 6)

    def of(model):
        run = jax.jit(jax.value_and_grad(lambda *a: loss_fn(asked, model)(*a)[0]))
        return run(tuned, model.params, batch)

    wanted = of(whole)
    for remat in ("none", "full"):
        chunked = with_config(whole, attention_chunk=4, scan=scan, remat=remat)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), of(chunked), wanted
        )


def test_a_bias_of_every_layer_is_looked_up_in_chunks(tiny):
    """umT5."""
    shape = dataclasses.replace(tiny.config, bias_per_layer=True)
    params = init_params(shape, jax.random.key(0))
    x, mask = jax.random.normal(jax.random.key(1), (2, 9, 16)), jnp.ones((2, 9), bool)
    given = {"params": params}, x, mask
    chunked = Module(dataclasses.replace(shape, attention_chunk=4))
    ours = jax.jit(lambda *a: chunked.apply(*a, method="encode"))(*given)
    wanted = jax.jit(lambda *a: Module(shape).apply(*a, method="encode"))(*given)
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_scores_are_never_whole():
    """A step needs less than one array with a number for each head and pair of positions."""
    shape = T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_heads=8, num_layers=2, num_decoder_layers=2
    )
    params = jax.eval_shape(lambda: init_params(shape, jax.random.key(0)))
    x, mask = jax.ShapeDtypeStruct((4, 512, 16), jnp.float32), jnp.ones((4, 512), bool)

    def temporaries(chunk):
        module = Module(dataclasses.replace(shape, attention_chunk=chunk))

        def loss(x, params):
            return module.apply({"params": params}, x, mask, method="encode").sum()

        compiled = jax.jit(jax.grad(loss)).lower(x, params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    scores = 4 * 8 * 512 * 512 * 4
    whole, chunked = temporaries(None), temporaries(16)
    assert whole > scores > 2 * chunked


@pytest.mark.parametrize("config", [BackboneConfig, T5Config])
def test_a_chunk_has_queries(config):
    with pytest.raises(InputError, match="attention_chunk must be at least 1, got 0"):
        config(attention_chunk=0)
