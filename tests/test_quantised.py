"""Frozen weights in few bits: what they are worth, and what needs them whole."""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax.backbones import PRESETS, boxed_shapes
from prompt_jax.backbones.quantised import (
    LIMITS,
    TABLES,
    bytes_of,
    dequantised,
    held,
    output_axes,
    quantise,
    quantise_tree,
    scale_axes,
    widened,
)
from prompt_jax.config import InputError
from prompt_jax.data import Batch
from prompt_jax.generate import generate
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init, lora
from prompt_jax.prompts import prompt_for
from prompt_jax.weights import load_backbone, save_hugging_face

KINDS = tuple(LIMITS)
on_families = pytest.mark.parametrize(
    "backbone", ["tiny", "tiny_gpt2", "tiny_llama", "tiny_bert"], indirect=True
)


@pytest.fixture
def backbone(request):
    return request.getfixturevalue(request.param)


quantised = jax.jit(quantise_tree, static_argnums=1)


def small(backbone, kind):
    return dataclasses.replace(backbone, params=quantised(backbone.params, kind))


@jax.jit
def widened_tree(params):
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(key.key for key in path)
        if not name.endswith("_scale"):
            flat[name] = dequantised(params, name) if leaf.dtype.itemsize == 1 else leaf
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def whole_again(backbone):
    """The quantised model with its weights in float32: what it stands for."""
    return dataclasses.replace(backbone, params=widened_tree(backbone.params))


def batch_of(backbone):
    rng = np.random.default_rng(0)
    mask = np.arange(7) < np.array([7, 4, 5])[:, None]
    tokens = np.where(mask, rng.integers(3, 60, (3, 7)), 0).astype(np.int32)
    if backbone.target_place == "within":
        tokens[:, 1] = backbone.config.mask_token_id
        return Batch(tokens, mask, np.full((3, 1), 9, np.int32), np.ones((3, 1), bool))
    targets = rng.integers(3, 60, (3, 4)).astype(np.int32)
    return Batch(tokens, mask, targets, np.ones((3, 4), bool))


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_weight_of_an_output_is_kept(kind):
    values = jax.random.normal(jax.random.key(0), (5, 3, 4))
    how = held("mlp/wi/kernel", kind)
    stored, scale = quantise(values.at[:, 0, 0].set(0.0), (1, 2), how)
    grouped = (1,) if how.grouped else ()
    assert stored.dtype.itemsize == 1 and scale.shape == (*grouped, 3, 4) and scale.min() > 0
    assert scale[..., 0, 0] == 1
    back = np.asarray(stored, np.float32) * np.asarray(scale, np.float32)
    largest = np.abs(values).max(0)
    error = np.abs(back - values.at[:, 0, 0].set(0.0)).max(0)
    np.testing.assert_allclose(np.abs(back).max(0)[1:], largest[1:], rtol=1e-6)
    # Half a step of 127 or of 7, or half of the last of four bits of what is largest.
    step = {"int8": 0.51 / 127, "float8": 2**-4, "int4": 0.51 / 7}[kind]
    assert (error <= largest * step).all()


def test_groups_are_of_inputs_of_one_output():
    """A large weight spoils 63 others, not all of its output."""
    values = jax.random.normal(jax.random.key(0), (192, 4)).at[0].set(100.0)
    stored, scale = quantise(values, (1,), held("mlp/wi/kernel", "int4"))
    assert scale.shape == (3, 4) and (scale[0] > 10).all() and (scale[1:] < 1).all()
    assert scale_axes((4, 2, 100, 6), (0, 3), grouped=True) == {0: 4, 1: 2, 2: 2, 3: 6}
    error = np.abs(widened(stored, scale, (1,)) - values)
    assert error[64:].max() < 0.3 < error[1:64].max()


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_a_word_table_may_differ_in_size(kind):
    """What large columns lose is nothing to small ones in front of large states."""
    sizes = np.repeat([[100.0, 0.01]], 64, axis=1)
    table = jax.random.normal(jax.random.key(0), (50, 128)) * sizes
    states = jax.random.normal(jax.random.key(1), (8, 128)) / sizes
    stored, scale = quantise(table, (0,), held(TABLES[0], kind))
    assert stored.dtype.itemsize == 1 and scale.shape == (50, 2)
    found, wanted = states @ widened(stored, scale, (0,)).T, states @ table.T
    assert np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)) < 0.03


def test_bytes_are_what_is_packed():
    """Two numbers of four bits share a byte on this CPU, though `nbytes` counts one for each."""
    product = jax.jit(lambda a, b: a.astype(jnp.float32) @ b)
    small, x = jax.ShapeDtypeStruct((64, 64), jnp.int4), jax.ShapeDtypeStruct((64, 1), jnp.float32)
    compiled = product.lower(small, x).compile().memory_analysis()
    assert bytes_of(small) == 64 * 32
    assert compiled.argument_size_in_bytes == bytes_of(small) + bytes_of(x)


def later(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("backbone", "kind"),
    [
        *(("tiny", "int8"), later("tiny", "float8"), later("tiny_gpt2", "int8")),
        *(later("tiny_llama", "int8"), later("tiny_bert", "int8")),
        *(later("tiny", "int4"), later("tiny_gpt2", "int4"), later("tiny_llama", "int4")),
        later("tiny_bert", "int4"),
    ],
    indirect=["backbone"],
)
def test_a_model_is_what_its_weights_stand_for(kind, backbone):
    """Loss and gradient are those of the same numbers in float32; no scale is lost anywhere."""
    eight = small(backbone, kind)
    stored = {leaf.dtype for leaf in jax.tree.leaves(eight.params)}
    assert quantise(jnp.ones((1, 1)), (1,), held("kernel", kind))[0].dtype in stored
    method = pj.PromptTuningConfig(num_virtual_tokens=3, task_type=backbone.task_types[0])
    tuned = init(method, eight, jax.random.key(1))

    def of(model):
        run = jax.jit(jax.value_and_grad(lambda *a: loss_fn(method, model)(*a)[0]))
        return run(tuned, model.params, batch_of(model))

    loss, grads = of(eight)
    wanted, wanted_grads = of(whole_again(eight))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(grads["prompt"], wanted_grads["prompt"], rtol=1e-3, atol=1e-5)
    plain = of(backbone)[0]
    assert 0 < abs(float(loss - plain)) < 0.05 * abs(float(plain))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["tiny", "tiny_llama"], indirect=True)
def test_decoding_is_of_the_same_numbers(backbone):
    eight = small(backbone, "int8")
    batch = batch_of(backbone)
    options = {"max_new_tokens": 5}
    ours = generate(eight, None, batch.tokens, batch.mask, **options)
    np.testing.assert_array_equal(
        ours, generate(whole_again(eight), None, batch.tokens, batch.mask, **options)
    )


@pytest.mark.parametrize("kind", ["int8", "int4"])
@on_families
def test_shapes_are_known_before_any_weight(kind, backbone):
    boxes = boxed_shapes(backbone.config, kind)
    shapes = jax.tree.map(lambda b: b.value, boxes, is_leaf=lambda b: hasattr(b, "names"))
    made = jax.eval_shape(lambda p: quantise_tree(p, kind), backbone.params)
    assert jax.tree.map(lambda s: (s.shape, s.dtype), shapes) == jax.tree.map(
        lambda s: (s.shape, s.dtype), made
    )
    for box in jax.tree.leaves(boxes, is_leaf=lambda b: hasattr(b, "names")):
        assert len(box.names) == len(box.value.shape)


def test_outputs_of_leaves():
    assert output_axes("embedding", 2) == (0,)
    assert output_axes("encoder/layers/attention/query/kernel", 4) == (0, 2, 3)
    assert output_axes("encoder/layers/attention/out/kernel", 4) == (0, 3)
    assert output_axes("head/kernel", 2) == (1,)
    assert output_axes("encoder/layers/attention/query/bias", 3) is None


@pytest.mark.parametrize("kind", ["int8", later("int4")])
def test_a_checkpoint_is_read_into_few_bits(kind, tiny_folder, tiny, monkeypatch):
    plain, eight = load_backbone(tiny_folder), load_backbone(tiny_folder, dtype=kind)
    assert eight.fingerprint == plain.fingerprint and eight.config.dtype == jnp.float32
    wanted = quantise_tree(plain.params, kind)
    assert jax.tree.structure(eight.params) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, eight.params, wanted)
    monkeypatch.setitem(PRESETS, "t5_1_1_small", tiny.config)
    random = load_backbone("t5_1_1_small", dtype="float8")
    assert random.params["embedding"].dtype == jnp.float8_e4m3fn


@pytest.mark.parametrize(("kind", "share"), [("int8", 0.27), ("int4", 0.2)])
def test_the_embedded_model_is_small(kind, share, embedded):
    def size(params):
        return sum(map(bytes_of, jax.tree.leaves(params)))

    small = jax.eval_shape(lambda params: quantise_tree(params, kind), embedded.params)
    assert size(small) <= share * size(embedded.params)


@pytest.mark.slow
def test_what_needs_whole_weights(tiny, tmp_path):
    eight = small(tiny, "int8")
    key = jax.random.key(0)
    message = "the weights themselves, and these are held in few bits; load the backbone with"
    with pytest.raises(InputError, match="full fine-tuning changes or copies " + message):
        init(pj.FullConfig(), eight, key)
    config = pj.LoraConfig(r=2, target_modules=("q",))
    with pytest.raises(InputError, match="merging changes or copies " + message):
        lora.merge(config, init(config, eight, key), eight.params)
    with pytest.raises(InputError, match="a folder in Hugging Face's format changes"):
        save_hugging_face(tmp_path, eight)


@pytest.mark.parametrize(("dora", "kind"), [(False, "int8"), (True, "int8"), (True, "int4")])
@pytest.mark.slow
def test_lora_on_few_bits(dora, kind, tiny):
    """DoRA starts as the plain model, so its norms are of what the weights stand for."""
    eight = small(tiny, kind)
    config = pj.LoraConfig(r=2, target_modules=("q", "wi_1"), use_dora=dora)
    tuned = init(config, eight, jax.random.key(0))
    batch = batch_of(tiny)
    loss = jax.jit(lambda *a: loss_fn(config, eight)(*a)[0])(tuned, eight.params, batch)
    none = pj.BiasConfig()
    bare = jax.jit(lambda *a: loss_fn(none, eight)(*a)[0])
    plain = bare(init(none, eight, jax.random.key(0)), eight.params, batch)
    np.testing.assert_allclose(loss, plain, rtol=1e-5)
    assert prompt_for(tuned, config, eight).size > 0
