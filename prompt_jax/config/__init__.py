"""Every option of the library, as frozen dataclasses that check themselves.

A config is data: plain types, one docstring a field, no callables. All validation lives here, so
a wrong value is answered before a model is loaded or a step is compiled.
"""

from prompt_jax.config.checks import InputError as InputError
from prompt_jax.config.checks import at_least as at_least
from prompt_jax.config.checks import check_place as check_place
from prompt_jax.config.checks import choose as choose
from prompt_jax.config.distributed import DistributedConfig as DistributedConfig
from prompt_jax.config.experiment import DTYPES as DTYPES
from prompt_jax.config.experiment import METRICS as METRICS
from prompt_jax.config.experiment import OBJECTIVES as OBJECTIVES
from prompt_jax.config.experiment import REMATS as REMATS
from prompt_jax.config.experiment import BackboneConfig as BackboneConfig
from prompt_jax.config.experiment import Config as Config
from prompt_jax.config.experiment import DataConfig as DataConfig
from prompt_jax.config.experiment import EvalConfig as EvalConfig
from prompt_jax.config.experiment import TaskConfig as TaskConfig
from prompt_jax.config.experiment import TrainConfig as TrainConfig
from prompt_jax.config.experiment import resolved as resolved
from prompt_jax.config.kinds import KINDS as KINDS
from prompt_jax.config.layers import AdapterConfig as AdapterConfig
from prompt_jax.config.layers import BiasConfig as BiasConfig
from prompt_jax.config.layers import FullConfig as FullConfig
from prompt_jax.config.layers import HeadConfig as HeadConfig
from prompt_jax.config.layers import IA3Config as IA3Config
from prompt_jax.config.layers import LoraConfig as LoraConfig
from prompt_jax.config.layers import NormConfig as NormConfig
from prompt_jax.config.layers import PromptAdapterConfig as PromptAdapterConfig
from prompt_jax.config.layers import UnionConfig as UnionConfig
from prompt_jax.config.mesh import MeshConfig as MeshConfig
from prompt_jax.config.method import METHOD_KINDS as METHOD_KINDS
from prompt_jax.config.method import MethodConfig as MethodConfig
from prompt_jax.config.plain import differences as differences
from prompt_jax.config.plain import from_json as from_json
from prompt_jax.config.plain import to_json as to_json
from prompt_jax.config.prompts import PLACEMENTS as PLACEMENTS
from prompt_jax.config.prompts import DecomposedPromptConfig as DecomposedPromptConfig
from prompt_jax.config.prompts import DeepPromptConfig as DeepPromptConfig
from prompt_jax.config.prompts import MultitaskPromptConfig as MultitaskPromptConfig
from prompt_jax.config.prompts import PrefixTuningConfig as PrefixTuningConfig
from prompt_jax.config.prompts import PromptTuningConfig as PromptTuningConfig
from prompt_jax.config.prompts import PTuningConfig as PTuningConfig
from prompt_jax.config.prompts import PTuningV2Config as PTuningV2Config
from prompt_jax.config.prompts import ResidualPromptConfig as ResidualPromptConfig
from prompt_jax.config.sweep import SweepConfig as SweepConfig
