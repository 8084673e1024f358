"""BART: its config, its module, its weights' names, its sockets; see `Family`."""

from prompt_jax.backbones.bart.config import MODEL_TYPES as MODEL_TYPES
from prompt_jax.backbones.bart.config import PRESETS as PRESETS
from prompt_jax.backbones.bart.config import BartConfig as BartConfig
from prompt_jax.backbones.bart.config import BartConfig as Config
from prompt_jax.backbones.bart.config import from_hugging_face as from_hugging_face
from prompt_jax.backbones.bart.config import one_layer as one_layer
from prompt_jax.backbones.bart.config import to_hugging_face as to_hugging_face
from prompt_jax.backbones.bart.model import Bart as Module
from prompt_jax.backbones.bart.names import COPIES as COPIES
from prompt_jax.backbones.bart.names import TABLES as TABLES
from prompt_jax.backbones.bart.names import canonical as canonical
from prompt_jax.backbones.bart.names import head_names as head_names
from prompt_jax.backbones.bart.names import hugging_face_names as hugging_face_names
from prompt_jax.backbones.bart.names import kernel_names as kernel_names
from prompt_jax.backbones.bart.names import sockets as sockets
from prompt_jax.backbones.bart.names import told_by_weights as told_by_weights
from prompt_jax.backbones.bart.names import transposed as transposed

TASK_TYPES = ("SEQ_2_SEQ_LM",)

__all__ = ["Config", "Module"]
