"""Decoder-only models, from GPT-2 and Llama to Gemma and Phi, by config and not by copies."""

from prompt_jax.backbones.causal.config import PRESETS as PRESETS
from prompt_jax.backbones.causal.config import CausalConfig as CausalConfig
from prompt_jax.backbones.causal.config import CausalConfig as Config
from prompt_jax.backbones.causal.config import StackConfig as StackConfig
from prompt_jax.backbones.causal.config import one_layer as one_layer
from prompt_jax.backbones.causal.config_json import FULL as FULL
from prompt_jax.backbones.causal.config_json import SLIDING as SLIDING
from prompt_jax.backbones.causal.config_json import filled as filled
from prompt_jax.backbones.causal.config_json import from_hugging_face as from_hugging_face
from prompt_jax.backbones.causal.config_json import special_tokens as special_tokens
from prompt_jax.backbones.causal.config_json import stack_fields as stack_fields
from prompt_jax.backbones.causal.config_json import stack_values as stack_values
from prompt_jax.backbones.causal.config_json import to_hugging_face as to_hugging_face
from prompt_jax.backbones.causal.masks import both_ways as both_ways
from prompt_jax.backbones.causal.masks import layer_biases as layer_biases
from prompt_jax.backbones.causal.masks import sight as sight
from prompt_jax.backbones.causal.model import Causal as Module
from prompt_jax.backbones.causal.model_types import ALWAYS as ALWAYS
from prompt_jax.backbones.causal.model_types import MODEL_TYPES as MODEL_TYPES
from prompt_jax.backbones.causal.names import COPIES as COPIES
from prompt_jax.backbones.causal.names import TABLES as TABLES
from prompt_jax.backbones.causal.names import add_places as add_places
from prompt_jax.backbones.causal.names import canonical as canonical
from prompt_jax.backbones.causal.names import head_names as head_names
from prompt_jax.backbones.causal.names import hugging_face_names as hugging_face_names
from prompt_jax.backbones.causal.names import kernel_names as kernel_names
from prompt_jax.backbones.causal.names import sockets as sockets
from prompt_jax.backbones.causal.names import stack_names as stack_names
from prompt_jax.backbones.causal.names import transposed as transposed
from prompt_jax.backbones.causal.rope import Rope as Rope
from prompt_jax.backbones.causal.rope import read_rope as read_rope
from prompt_jax.backbones.causal.rope import write_rope as write_rope
from prompt_jax.backbones.causal.stack import Cross as Cross
from prompt_jax.backbones.causal.stack import Stack as Stack
from prompt_jax.backbones.causal.stack import norm as norm
from prompt_jax.backbones.config import told_by_weights as told_by_weights

TASK_TYPES = ("CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS")

__all__ = ["Config", "Module"]
