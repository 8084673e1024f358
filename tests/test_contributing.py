"""The worked example of CONTRIBUTING.md is a method that trains."""

import re
import types
from dataclasses import dataclass
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import methods
from prompt_jax.config import METHOD_KINDS, MethodConfig, TrainConfig, from_json, to_json
from prompt_jax.data import Batch
from prompt_jax.losses import loss_fn
from prompt_jax.methods import Injection, init, materialize
from prompt_jax.methods.targets import targets
from prompt_jax.train import fit, start

ROOT = Path(__file__).parent.parent


def test_the_toy_method_of_contributing(tiny, monkeypatch):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    config_source, file_source = (re.sub(r"^   ", "", block, flags=re.M) for block in blocks[:2])
    names = {"dataclass": dataclass, "MethodConfig": MethodConfig, "__name__": __name__}
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    kinds = dict(METHOD_KINDS)
    try:
        exec(config_source, names)
        config = names["QueryShiftConfig"]()
        module = types.ModuleType("query_shift")
        module.__dict__.update(jnp=jnp, flax=flax, targets=targets, Injection=Injection)
        exec(file_source, module.__dict__)
        methods.METHODS[type(config)] = module
        assert from_json(MethodConfig, to_json(config)) == config

        tuned = init(config, tiny, jax.random.key(0))
        assert set(materialize(config, tuned).sockets) == {"encoder", "decoder"}
        rng = np.random.default_rng(0)
        tokens, targets_ = (rng.integers(2, 30, (4, n), np.int32) for n in (6, 3))
        batch = Batch(tokens, np.ones((4, 6), bool), targets_, np.ones((4, 3), bool))
        losses: list[float] = []
        options = TrainConfig(steps=10, batch_size=4, optimizer="adamw", learning_rate=0.05)
        fit(
            loss_fn(config, tiny),
            start(tuned, options),
            tiny.params,
            [batch] * 10,
            options,
            after_step=lambda step, state, row: losses.append(row["loss"]),
        )
        assert losses[-1] < losses[0]
    finally:
        METHOD_KINDS.clear()
        METHOD_KINDS.update(kinds)


def test_backbones_know_no_method():
    """They know sockets only: no file of theirs names a method's config or file."""
    words = {config.__name__ for config in METHOD_KINDS.values()} | {"prompt_jax.methods"}
    for path in (ROOT / "prompt_jax" / "backbones").rglob("*.py"):
        assert not [word for word in words if word in path.read_text()], path


def test_method_files_fit_in_a_head():
    folder = ROOT / "prompt_jax" / "methods"
    lines = sorted(len(path.read_text().splitlines()) for path in folder.glob("*.py"))
    assert lines[len(lines) // 2] < 120 and lines[-1] <= 250
