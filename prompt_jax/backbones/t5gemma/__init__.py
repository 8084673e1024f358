"""T5Gemma 1 and 2: their config, module, names of weights, and sockets; see `Family`."""

from prompt_jax.backbones.causal import kernel_names as kernel_names
from prompt_jax.backbones.t5gemma.config import MODEL_TYPES as MODEL_TYPES
from prompt_jax.backbones.t5gemma.config import PRESETS as PRESETS
from prompt_jax.backbones.t5gemma.config import WITH_VISION as WITH_VISION
from prompt_jax.backbones.t5gemma.config import T5GemmaConfig as Config
from prompt_jax.backbones.t5gemma.config import T5GemmaConfig as T5GemmaConfig
from prompt_jax.backbones.t5gemma.config import from_hugging_face as from_hugging_face
from prompt_jax.backbones.t5gemma.config import one_layer as one_layer
from prompt_jax.backbones.t5gemma.config import to_hugging_face as to_hugging_face
from prompt_jax.backbones.t5gemma.model import T5Gemma as Module
from prompt_jax.backbones.t5gemma.names import COPIES as COPIES
from prompt_jax.backbones.t5gemma.names import TABLES as TABLES
from prompt_jax.backbones.t5gemma.names import canonical as canonical
from prompt_jax.backbones.t5gemma.names import head_names as head_names
from prompt_jax.backbones.t5gemma.names import hugging_face_names as hugging_face_names
from prompt_jax.backbones.t5gemma.names import sockets as sockets
from prompt_jax.backbones.t5gemma.names import told_by_weights as told_by_weights
from prompt_jax.backbones.t5gemma.names import transposed as transposed

TASK_TYPES = ("SEQ_2_SEQ_LM",)

__all__ = ["Config", "Module"]
