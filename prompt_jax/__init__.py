"""Prompt tuning for frozen transformers, in JAX.

    import prompt_jax as pj

Names are imported when they are first used, so that `import prompt_jax` costs nothing.
"""

import importlib
from typing import Any

_HOMES = {
    "Backbone": "backbones",
    "Batch": "data",
    "Batches": "data",
    "BackboneConfig": "config",
    "Config": "config",
    "DataConfig": "config",
    "EvalConfig": "config",
    "InputError": "config",
    "Injection": "forward",
    "Prompt": "prompts",
    "AdapterConfig": "config",
    "BiasConfig": "config",
    "DecomposedPromptConfig": "config",
    "DeepPromptConfig": "config",
    "FullConfig": "config",
    "HeadConfig": "config",
    "IA3Config": "config",
    "LoraConfig": "config",
    "MeshConfig": "config",
    "MultitaskPromptConfig": "config",
    "NormConfig": "config",
    "PrefixTuningConfig": "config",
    "PromptAdapterConfig": "config",
    "PTuningConfig": "config",
    "PTuningV2Config": "config",
    "ResidualPromptConfig": "config",
    "UnionConfig": "config",
    "PromptTuningConfig": "config",
    "PromptTuningModel": "model",
    "State": "train",
    "SweepConfig": "config",
    "Task": "tasks",
    "TaskConfig": "config",
    "TrainConfig": "config",
    "compose": "prompts",
    "compose_attention": "experiment",
    "ensemble": "generate",
    "recycle": "prompts",
    "resolved": "config",
    "fit": "train",
    "init": "methods",
    "load_backbone": "weights",
    "load_prompt": "prompts",
    "loss_fn": "losses",
    "materialize": "methods",
    "prepend": "forward",
    "save_prompt": "prompts",
    "start": "train",
    "train_step": "train",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prompt_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"prompt_jax.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
