"""Populations on a mesh; `test_sharded.py` runs these too in a process of eight fake devices."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from eight_models import METHODS, batch_of, mesh_of, noisy, on_mesh, one_device

from prompt_jax.checkpoints import restore, save, writing
from prompt_jax.config import Config, DataConfig, MeshConfig, TrainConfig
from prompt_jax.experiment import load_data
from prompt_jax.experiment.members import Population
from prompt_jax.experiment.training import load
from prompt_jax.losses import loss_fn
from prompt_jax.methods import PromptTuningConfig, init
from prompt_jax.population import (
    compile_population_step,
    filled,
    fit_population,
    joined,
    length_of,
    member,
    members_of,
    stack,
)
from prompt_jax.train import compile_step, fit, start

TOGETHER = [
    ("t5", "prompt", (8, 1, 1), 4, 8), ("t5", "lora", (1, 8, 1), 4, 8),
    ("gpt2", "prefix", (1, 1, 8), 4, 8),
    ("t5", "prefix", (2, 2, 2), 3, 2),  # Neither divides over all: two groups, one with a copy.
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "sizes", "count", "rows"), TOGETHER)
def test_members_equal_single_runs(name, kind, sizes, count, rows):
    """Several prompts at once over a model on a mesh, beside each alone on one device."""
    backbone, steps = one_device(name), 2
    method = dataclasses.replace(METHODS[kind], task_type=backbone.task_types[0])
    config = TrainConfig(steps=steps, optimizer="adamw", learning_rate=0.03)
    trees = [noisy(init(method, backbone, jax.random.key(i)), i) for i in range(count)]
    batches = [[batch_of(rows, seed=10 * i + step) for step in range(steps)] for i in range(count)]
    mesh = mesh_of(*sizes)
    shared, at = on_mesh(backbone, mesh), np.resize(range(count), filled(count, rows, mesh))
    loss = loss_fn(method, shared)
    found = fit_population(
        compile_population_step(loss, config, mesh),
        stack([start(trees[i], config) for i in at]),
        shared.params,
        [joined([batches[i][step] for i in at]) for step in range(steps)],
        members_of([config] * len(at), [method] * len(at), length_of(method)),
        mesh=mesh,
    )
    loss = loss_fn(method, backbone)
    way = {"config": config, "step_fn": compile_step(loss, config)}
    for i, tree in enumerate(trees):
        alone = fit(loss, start(tree, config), backbone.params, batches[i], **way)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
            *jax.device_get((member(found.tuned, i), alone.tuned)),
        )


@pytest.mark.slow
def test_members_go_on_on_another_mesh(tiny_folder, task_file, tmp_path):
    """From devices that share out members to devices that share a model."""

    def population(**sizes):
        config = Config(
            backbone=str(tiny_folder), mesh=MeshConfig(**sizes),
            method=PromptTuningConfig(num_virtual_tokens=4),
            data=DataConfig(task=f"file:{task_file}"), train=TrainConfig(batch_size=4, steps=9),
        )  # fmt: skip
        seeds = [dataclasses.replace(config.train, seed=seed) for seed in range(3)]
        configs = [dataclasses.replace(config, train=train) for train in seeds]
        return Population(configs, load(config), [load_data(config)] * 3)

    def advance(members, steps):
        members.advance(range(3), steps, lambda *_: None, lambda: True)

    first, second = population(data=8), population(data=2, fsdp=2, tensor=2)
    advance(first, 2)
    with writing(tmp_path / "checkpoints") as manager:
        save(manager, 2, first.checkpoint())
        _, saved = restore(manager, second.checkpoint())
    second.restore(saved)
    jax.tree.map(np.testing.assert_array_equal, second.checkpoint(), first.checkpoint())
    for members in (first, second):
        advance(members, 2)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, second.states, first.states)
    assert [second.step(i) for i in range(3)] == [4, 4, 4]
