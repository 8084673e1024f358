"""Every option of the library, as frozen dataclasses that check themselves.

A config is data: plain types, one docstring a field, no callables. All validation lives here, so
a wrong value is answered before a model is loaded or a step is compiled.
"""

from prompt_jax.config.checks import InputError as InputError
from prompt_jax.config.checks import at_least as at_least
from prompt_jax.config.checks import check_place as check_place
from prompt_jax.config.checks import choose as choose
from prompt_jax.config.data import METRICS as METRICS
from prompt_jax.config.data import NO_CACHE as NO_CACHE
from prompt_jax.config.data import DataConfig as DataConfig
from prompt_jax.config.data import TaskConfig as TaskConfig
from prompt_jax.config.data import file_name as file_name
from prompt_jax.config.distil import DIVERGENCES as DIVERGENCES
from prompt_jax.config.distil import DistilConfig as DistilConfig
from prompt_jax.config.distributed import DistributedConfig as DistributedConfig
from prompt_jax.config.experiment import ATTENTIONS as ATTENTIONS
from prompt_jax.config.experiment import DTYPES as DTYPES
from prompt_jax.config.experiment import OBJECTIVES as OBJECTIVES
from prompt_jax.config.experiment import REMATS as REMATS
from prompt_jax.config.experiment import BackboneConfig as BackboneConfig
from prompt_jax.config.experiment import Config as Config
from prompt_jax.config.experiment import EvalConfig as EvalConfig
from prompt_jax.config.experiment import TrainConfig as TrainConfig
from prompt_jax.config.experiment import resolved as resolved
from prompt_jax.config.kinds import KINDS as KINDS
from prompt_jax.config.mesh import MeshConfig as MeshConfig
from prompt_jax.config.method import IN_CHATS as IN_CHATS
from prompt_jax.config.method import PLACEMENTS as PLACEMENTS
from prompt_jax.config.method import MethodConfig as MethodConfig
from prompt_jax.config.method import Opening as Opening
from prompt_jax.config.method import method_kinds as method_kinds
from prompt_jax.config.paper import PaperConfig as PaperConfig
from prompt_jax.config.paper import PaperRow as PaperRow
from prompt_jax.config.paper import PaperTable as PaperTable
from prompt_jax.config.plain import check_types as check_types
from prompt_jax.config.plain import differences as differences
from prompt_jax.config.plain import from_json as from_json
from prompt_jax.config.plain import to_json as to_json
from prompt_jax.config.sweep import SweepConfig as SweepConfig
from prompt_jax.config.writing import Drawing as Drawing
from prompt_jax.config.writing import WritingConfig as WritingConfig


def __getattr__(name: str) -> type[MethodConfig]:
    """The config of a method, which lives beside its method; recipes may name it here."""
    if name.endswith("Config"):
        for config in method_kinds().values():
            if config.__name__ == name:
                return config
    raise AttributeError(f"module 'prompt_jax.config' has no attribute {name!r}")
