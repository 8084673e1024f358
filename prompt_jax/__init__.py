"""Prompt tuning for frozen transformers, in JAX.

    import prompt_jax as pj

Names are imported when they are first used, so that `import prompt_jax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

_NAMES = {
    "answers": "ensemble",
    "backbones": "Backbone",
    "config": (
        "BackboneConfig Config DataConfig DistilConfig EvalConfig InputError MeshConfig "
        "MethodConfig PaperConfig PaperRow PaperTable SweepConfig TaskConfig TrainConfig resolved"
    ),
    "data": "Batch Batches",
    "experiment": "compose_attention",
    "forward": "Injection prepend",
    "losses": "distil_loss loss_fn",
    "methods": (
        "AdapterConfig AdaptionPromptConfig BiasConfig CPTConfig DecomposedPromptConfig "
        "DeepPromptConfig FullConfig HeadConfig IA3Config LoraConfig MultitaskPromptConfig "
        "NormConfig PTuningConfig PTuningV2Config PrefixTuningConfig PromptAdapterConfig "
        "PromptTuningConfig ResidualPromptConfig UnionConfig init materialize register_method"
    ),
    "model": "PromptTuningModel",
    "prompts": "PeftFolder Prompt compose load_prompt recycle save_prompt",
    "tasks": "Task",
    "train": "State fit start train_step",
    "weights": "load_backbone",
}
"""Rooms, and what each gives to the package."""
_HOMES = {name: room for room, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = "0.1.0"


if TYPE_CHECKING:  # What editors and type checkers see of `_HOMES`.
    from prompt_jax.answers import ensemble as ensemble
    from prompt_jax.backbones import Backbone as Backbone
    from prompt_jax.config import BackboneConfig as BackboneConfig
    from prompt_jax.config import Config as Config
    from prompt_jax.config import DataConfig as DataConfig
    from prompt_jax.config import DistilConfig as DistilConfig
    from prompt_jax.config import EvalConfig as EvalConfig
    from prompt_jax.config import InputError as InputError
    from prompt_jax.config import MeshConfig as MeshConfig
    from prompt_jax.config import MethodConfig as MethodConfig
    from prompt_jax.config import PaperConfig as PaperConfig
    from prompt_jax.config import PaperRow as PaperRow
    from prompt_jax.config import PaperTable as PaperTable
    from prompt_jax.config import SweepConfig as SweepConfig
    from prompt_jax.config import TaskConfig as TaskConfig
    from prompt_jax.config import TrainConfig as TrainConfig
    from prompt_jax.config import resolved as resolved
    from prompt_jax.data import Batch as Batch
    from prompt_jax.data import Batches as Batches
    from prompt_jax.experiment import compose_attention as compose_attention
    from prompt_jax.forward import Injection as Injection
    from prompt_jax.forward import prepend as prepend
    from prompt_jax.losses import distil_loss as distil_loss
    from prompt_jax.losses import loss_fn as loss_fn
    from prompt_jax.methods import AdapterConfig as AdapterConfig
    from prompt_jax.methods import AdaptionPromptConfig as AdaptionPromptConfig
    from prompt_jax.methods import BiasConfig as BiasConfig
    from prompt_jax.methods import CPTConfig as CPTConfig
    from prompt_jax.methods import DecomposedPromptConfig as DecomposedPromptConfig
    from prompt_jax.methods import DeepPromptConfig as DeepPromptConfig
    from prompt_jax.methods import FullConfig as FullConfig
    from prompt_jax.methods import HeadConfig as HeadConfig
    from prompt_jax.methods import IA3Config as IA3Config
    from prompt_jax.methods import LoraConfig as LoraConfig
    from prompt_jax.methods import MultitaskPromptConfig as MultitaskPromptConfig
    from prompt_jax.methods import NormConfig as NormConfig
    from prompt_jax.methods import PrefixTuningConfig as PrefixTuningConfig
    from prompt_jax.methods import PromptAdapterConfig as PromptAdapterConfig
    from prompt_jax.methods import PromptTuningConfig as PromptTuningConfig
    from prompt_jax.methods import PTuningConfig as PTuningConfig
    from prompt_jax.methods import PTuningV2Config as PTuningV2Config
    from prompt_jax.methods import ResidualPromptConfig as ResidualPromptConfig
    from prompt_jax.methods import UnionConfig as UnionConfig
    from prompt_jax.methods import init as init
    from prompt_jax.methods import materialize as materialize
    from prompt_jax.methods import register_method as register_method
    from prompt_jax.model import PromptTuningModel as PromptTuningModel
    from prompt_jax.prompts import PeftFolder as PeftFolder
    from prompt_jax.prompts import Prompt as Prompt
    from prompt_jax.prompts import compose as compose
    from prompt_jax.prompts import load_prompt as load_prompt
    from prompt_jax.prompts import recycle as recycle
    from prompt_jax.prompts import save_prompt as save_prompt
    from prompt_jax.tasks import Task as Task
    from prompt_jax.train import State as State
    from prompt_jax.train import fit as fit
    from prompt_jax.train import start as start
    from prompt_jax.train import train_step as train_step
    from prompt_jax.weights import load_backbone as load_backbone
else:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'prompt_jax' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"prompt_jax.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
