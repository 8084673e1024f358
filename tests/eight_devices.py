"""Laws of a mesh; `test_sharded.py` runs them in a process of eight fake devices.

XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest -n 0 tests/eight_devices.py
"""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eight_models import METHODS, MODELS, batch_of, mesh_of, noisy, on_mesh, one_device

from prompt_jax.backbones import (
    Backbone,
    boxed_shapes,
    fused,
    init_params,
    shardings,
    t5,
)
from prompt_jax.backbones.quantised import quantise_tree
from prompt_jax.config import MeshConfig, TrainConfig
from prompt_jax.generate import generate, score
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init, materialize
from prompt_jax.serve import Engine
from prompt_jax.sharding import build_mesh, place_rows, whole
from prompt_jax.train import compile_step, fit, start
from prompt_jax.weights import load_backbone, save_hugging_face

MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (4, 1, 2)]


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@functools.cache
def found(name, kind, sizes=None):
    """Loss, gradient and answers, on a mesh or without one."""
    backbone = one_device(name)
    method = dataclasses.replace(METHODS[kind], task_type=backbone.task_types[0])
    tuned = noisy(init(method, backbone, jax.random.key(0)), 1)
    if sizes:
        backbone = on_mesh(backbone, mesh_of(*sizes))
    batch = place_rows(batch_of(), backbone.mesh)
    step = jax.jit(jax.value_and_grad(loss_fn(method, backbone), has_aux=True))
    (loss, _), grads = jax.device_get(step(tuned, backbone.params, batch))
    if backbone.config.is_encoder:
        return loss, grads, None
    inputs = (backbone, materialize(method, tuned), batch.tokens, batch.mask)
    return loss, grads, generate(*inputs, max_new_tokens=4)


# A prefix on every family where all axes split and where heads do; the other meshes once.
# Kernels with a LoRA are below, in few bits.
FEW = [("t5", "lora", (2, 2, 2))]
CROSS = [
    *FEW,
    *((name, "prefix", sizes) for name in MODELS for sizes in ((2, 2, 2), (1, 1, 8))),
    *(("t5", "prefix", (8, 1, 1)), ("gpt2", "prompt", (1, 8, 1)), ("bert", "lora", (4, 1, 2))),
]


@pytest.mark.parametrize(
    ("name", "kind", "sizes"),
    [case if case in FEW else pytest.param(*case, marks=pytest.mark.slow) for case in CROSS],
)
def test_a_mesh_equals_one_device(name, kind, sizes):
    loss, grads, answers = found(name, kind)
    shared = found(name, kind, sizes)
    np.testing.assert_allclose(shared[0], loss, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(shared[1]), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
    if answers is not None:
        np.testing.assert_array_equal(shared[2], answers)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_lora_on_weights_in_four_bits_and_queries_in_chunks(name):
    whole = one_device(name)
    small = dataclasses.replace(whole, params=quantise_tree(whole.params, "int4"))
    config = dataclasses.replace(whole.config, mesh=mesh_of(2, 2, 2), attention_chunk=3)
    params = jax.device_put(small.params, shardings(config, "int4"))
    shared = dataclasses.replace(small, config=config, params=params)
    method = dataclasses.replace(METHODS["lora"], task_type=whole.task_types[0])
    tuned = noisy(init(method, whole, jax.random.key(0)), 1)

    def of(backbone):
        batch = place_rows(batch_of(), backbone.mesh)
        step = jax.jit(jax.value_and_grad(lambda *a: loss_fn(method, backbone)(*a)[0]))
        return jax.device_get(step(tuned, backbone.params, batch))

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, of(shared), of(small))


@pytest.mark.slow
def test_scores_equal_and_rows_that_do_not_divide_are_everywhere():
    backbone = one_device("t5")
    batch, words = batch_of(rows=3), np.array([[5, 1], [9, 1]])
    inputs = (None, batch.tokens, batch.mask, words, np.ones((2, 2), bool))
    shared = score(on_mesh(backbone, mesh_of(2, 2, 2)), *inputs)
    np.testing.assert_allclose(shared, score(backbone, *inputs), rtol=1e-5)


def test_training_on_a_mesh_keeps_the_state_whole_and_compiles_once():
    backbone, config = one_device("t5"), TrainConfig(steps=3, batch_size=8, learning_rate=0.1)
    method, batches = METHODS["prompt"], [batch_of()] * 3
    tuned = init(method, backbone, jax.random.key(0))
    alone = fit(loss_fn(method, backbone), start(tuned, config), backbone.params, batches, config)
    shared = on_mesh(backbone, mesh_of(2, 2, 2))
    loss = loss_fn(method, shared)
    step = compile_step(loss, config, shared.mesh)
    state = fit(
        loss, start(tuned, config), shared.params, batches, config, step_fn=step, mesh=shared.mesh
    )
    assert step._cache_size() == 1
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(alone), strict=True):
        assert ours.sharding == whole(shared.mesh)
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)


def gathered(text):
    """The sizes of what every all-gather of a program gives."""
    shapes = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", text)
    return [np.prod([int(n) for n in shape.split(",") if n]) for shape in shapes]


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_neither_the_vocabulary_nor_logits_are_gathered(tied):
    """What is gathered is states and the kernels of one layer."""
    vocab = 4096
    config = dataclasses.replace(
        MODELS["t5"], vocab_size=vocab, tie_embeddings=tied, mesh=mesh_of(2, 2, 2)
    )
    backbone = Backbone(name="t5", config=config, params=abstract(config))
    tuned = {"prompt": jnp.zeros((4, 16))}
    batch = place_rows(batch_of(), config.mesh)
    step = jax.jit(jax.value_and_grad(loss_fn(METHODS["prompt"], backbone), has_aux=True))
    text = step.lower(tuned, backbone.params, batch).compile().as_text()
    sizes = gathered(text)
    assert sizes and max(sizes) < vocab
    # Logits of a device: its rows of `data`, its words of `tensor` and `fsdp`.
    assert f"f32[4,2,{vocab // 4}]" in text
    assert f",{vocab}]" not in text and f"[{vocab}," not in text


def abstract(config):
    """A model of any size, as shapes on their devices."""
    return jax.tree.map(
        lambda leaf, own: jax.ShapeDtypeStruct(leaf.shape, config.dtype, sharding=own),
        nn.unbox(boxed_shapes(config)),
        shardings(config),
    )


@pytest.mark.parametrize("sizes", MESHES[1:])
def test_no_large_leaf_of_xxl_is_left_whole(sizes):
    config = dataclasses.replace(t5.PRESETS["t5_1_1_xxl"], mesh=mesh_of(*sizes))
    for path, leaf in jax.tree.leaves_with_path(abstract(config)):
        parts = leaf.size // np.prod(leaf.sharding.shard_shape(leaf.shape))
        large = leaf.size * leaf.dtype.itemsize > 2**20
        assert parts == sizes[1] * sizes[2] or not large, jax.tree_util.keystr(path)


def test_the_program_of_xxl_does_not_grow_with_its_depth():
    def lines(layers):
        config = dataclasses.replace(
            t5.PRESETS["t5_1_1_xxl"], num_layers=layers, num_decoder_layers=layers,
            dtype=jnp.dtype(jnp.bfloat16), mesh=mesh_of(1, 2, 4),
        )  # fmt: skip
        backbone = Backbone(name="xxl", config=config, params=abstract(config))
        options = TrainConfig(batch_size=8, learning_rate=0.3)
        state = start({"prompt": jnp.zeros((100, 4096))}, options)
        step = compile_step(loss_fn(METHODS["prompt"], backbone), options, config.mesh)
        return len(step.lower(state, backbone.params, batch_of()).as_text().splitlines())

    few, many = lines(4), lines(24)
    assert few > 100 and abs(many - few) <= 0.05 * few


@pytest.mark.parametrize(
    "name", [n if n in ("t5", "gpt2") else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
def test_a_checkpoint_is_read_straight_to_its_shards(name, tmp_path):
    save_hugging_face(tmp_path, one_device(name))
    alone = load_backbone(tmp_path)
    shared = load_backbone(tmp_path, mesh=MeshConfig(fsdp=2, tensor=2))
    assert shared.mesh.shape == {"data": 2, "fsdp": 2, "tensor": 2} and shared.config.scan
    assert shared.fingerprint == alone.fingerprint
    wanted = shardings(shared.config)
    for leaf, own, whole_leaf in zip(
        *map(jax.tree.leaves, (shared.params, wanted, alone.params)), strict=True
    ):
        assert leaf.sharding == own
        np.testing.assert_array_equal(leaf, whole_leaf)


@pytest.mark.slow
def test_a_kernel_is_split_over_rows_and_heads(monkeypatch):
    """T5's own, interpreted, where each device has a tile of four heads."""
    monkeypatch.setattr(fused, "relative", functools.partial(fused.relative, interpret=True))
    wide = dataclasses.replace(MODELS["t5"], d_kv=32)
    backbone = Backbone(name="wide", config=wide, params=init_params(wide, jax.random.key(0)))
    tuned = init(METHODS["prompt"], backbone, jax.random.key(1))
    batch = batch_of(text=40)

    def step(backbone, batch):
        loss = loss_fn(METHODS["prompt"], backbone)
        run = jax.jit(jax.value_and_grad(lambda *arguments: loss(*arguments)[0]))
        lowered = run.lower(tuned, backbone.params, batch).as_text()
        return jax.device_get(run(tuned, backbone.params, batch)), lowered

    whole, _ = step(backbone, batch)
    mesh = mesh_of(2, 2, 2)
    backbone = on_mesh(backbone, mesh)
    config = dataclasses.replace(backbone.config, attention="pallas")
    backbone = dataclasses.replace(backbone, config=config)
    shared, lowered = step(backbone, place_rows(batch, mesh))
    assert "shard_map" in lowered or "manual_computation" in lowered
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), shared, whole)


@pytest.mark.slow
def test_a_preset_is_drawn_on_its_devices():
    alone = load_backbone("t5_1_1_small")
    shared = load_backbone("t5_1_1_small", mesh=MeshConfig(fsdp=4, tensor=2))
    assert shared.fingerprint == alone.fingerprint
    table = shared.params["embedding"]
    assert table.addressable_shards[0].data.shape == (32128 // 8, 512)
    np.testing.assert_array_equal(table, alone.params["embedding"])


def test_a_mesh_is_built_over_some_of_the_devices():
    mesh = build_mesh(MeshConfig(data=1, tensor=4), heads=4, size=1)
    assert mesh.shape == {"data": 1, "fsdp": 1, "tensor": 4} and mesh.size == 4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("t5", {}), ("gpt2", {"rows": (4,), "places": 1})])
def test_an_engine_on_a_mesh_answers_as_one_on_a_device(name, options):
    from engines import SMALL, prompts_of

    answers = []
    alone = one_device(name)
    prompts = prompts_of(alone, 5)
    for backbone in (alone, on_mesh(alone, mesh_of(2, 2, 2))):
        with Engine(backbone, prompts, **(SMALL | options)) as engine:
            asked = [engine.score(prompt, [4, 5, 6], [[7], [8]]) for prompt in prompts]
            written = [engine.generate(prompt, [4, 5, 6], max_new_tokens=4) for prompt in prompts]
            scores = [future.result().log_likelihoods for future in asked]
            answers.append((scores, [future.result().tokens.tolist() for future in written]))
    np.testing.assert_allclose(*(scores for scores, _ in answers), rtol=1e-5, atol=1e-5)
    assert answers[0][1] == answers[1][1]
