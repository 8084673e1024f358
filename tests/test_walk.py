"""How many files of the package a train step walks through: what a reader has to open."""

import sys
from pathlib import Path

import jax

import prompt_jax
from prompt_jax.config import PromptTuningConfig, TrainConfig
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init
from prompt_jax.testing import random_batch
from prompt_jax.train import start, train_step

ROOT = Path(prompt_jax.__file__).parent


def files_of(function, *arguments):
    """The files of the package in which functions are called, in the order they are entered."""
    files = {}

    def enter(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            files[Path(frame.f_code.co_filename).relative_to(ROOT).as_posix()] = None

    sys.setprofile(enter)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return list(files)


def walk(backbone):
    """The files of one step of prompt tuning, traced."""
    method, config = PromptTuningConfig(num_virtual_tokens=4), TrainConfig(steps=2)
    state = start(init(method, backbone, jax.random.key(0)), config)
    loss, batch = loss_fn(method, backbone), random_batch(backbone)

    def step(state, frozen):
        return train_step(loss, config, state, frozen, batch)

    return files_of(jax.eval_shape, step, state, backbone.unstacked())


def test_a_step_enters_few_files(tiny, tiny_gpt2):
    """The step, its loss, a method, an answer and the prompted model know no backbone."""
    shared = ["attention", "blocks", "config", "layers"]
    for backbone, models in (
        (tiny, ["encoder_decoder", "t5/model"]),
        (tiny_gpt2, ["causal/config", "causal/masks", "causal/model", "causal/stack"]),
    ):
        crossed = walk(backbone)
        files = [file for file in crossed if file.startswith("backbones")]
        assert len(crossed) <= 5 + len(files), crossed
        assert sorted(files) == sorted(f"backbones/{n}.py" for n in shared + models)
