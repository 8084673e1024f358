"""One file a method: its config, what it trains and puts into a model, and how PEFT saves it.

Each file ends in `register_method`, which makes it known, in the order of the imports here; a
method of your own ends in the same call.
"""

# ruff: noqa: I001
from prompt_jax.methods.method import FIXED as FIXED
from prompt_jax.methods.method import init as init
from prompt_jax.methods.method import materialize as materialize
from prompt_jax.methods.method import materializer as materializer
from prompt_jax.methods.method import method_of as method_of
from prompt_jax.methods.method import of_task as of_task
from prompt_jax.methods.method import register_method as register_method
from prompt_jax.methods.method import resolve as resolve
from prompt_jax.methods.method import simplify as simplify
from prompt_jax.methods.classifier import CLASSIFIER as CLASSIFIER
from prompt_jax.methods.prompt_tuning import PromptTuningConfig as PromptTuningConfig
from prompt_jax.methods.p_tuning import PTuningConfig as PTuningConfig
from prompt_jax.methods.prefix_tuning import PrefixTuningConfig as PrefixTuningConfig
from prompt_jax.methods.prefix_tuning import PTuningV2Config as PTuningV2Config
from prompt_jax.methods.deep_prompt import DeepPromptConfig as DeepPromptConfig
from prompt_jax.methods.residual_prompt import ResidualPromptConfig as ResidualPromptConfig
from prompt_jax.methods.decomposed_prompt import DecomposedPromptConfig as DecomposedPromptConfig
from prompt_jax.methods.multitask_prompt import MultitaskPromptConfig as MultitaskPromptConfig
from prompt_jax.methods.cpt import CPTConfig as CPTConfig
from prompt_jax.methods.lora import LoraConfig as LoraConfig
from prompt_jax.methods.ia3 import IA3Config as IA3Config
from prompt_jax.methods.adapter import AdapterConfig as AdapterConfig
from prompt_jax.methods.adaption_prompt import AdaptionPromptConfig as AdaptionPromptConfig
from prompt_jax.methods.prompt_adapter import PromptAdapterConfig as PromptAdapterConfig
from prompt_jax.methods.head import HeadConfig as HeadConfig
from prompt_jax.methods.bias import BiasConfig as BiasConfig
from prompt_jax.methods.norm import NormConfig as NormConfig
from prompt_jax.methods.full import FullConfig as FullConfig
from prompt_jax.methods.union import UnionConfig as UnionConfig
from prompt_jax.methods.union import mam as mam
from prompt_jax.methods.union import unipelt as unipelt
