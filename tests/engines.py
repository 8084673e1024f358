"""Engines of a few slots, and prompts of several methods for them."""

import dataclasses

import jax

from prompt_jax.methods import LoraConfig, PrefixTuningConfig, PromptTuningConfig, init
from prompt_jax.prompts import prompt_for
from prompt_jax.testing import shaken

SMALL = {"rows": (1, 4), "lengths": (8,), "slots": 4, "places": 3, "max_new_tokens": 6, "window": 0}


def prompt_of(backbone, method, seed, scale=0.3):
    """A prompt that has left its start and says something of its own."""
    if method.num_labels is None:
        method = dataclasses.replace(method, task_type=backbone.task_types[0])
    tuned = shaken(init(method, backbone, jax.random.key(seed)), 100 + seed, scale)
    return prompt_for(tuned, method, backbone, name=f"p{seed}")


def prompts_of(backbone, count=5):
    """Of three methods; engines of as many slots for five or more share their programs."""
    methods = [PromptTuningConfig(num_virtual_tokens=n) for n in (1, 5, 3)]
    methods += [LoraConfig(r=2), PrefixTuningConfig(num_virtual_tokens=3)]
    return {f"p{i}": prompt_of(backbone, methods[i % 5], i) for i in range(count)}
