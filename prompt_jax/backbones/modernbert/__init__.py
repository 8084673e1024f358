"""ModernBERT: its config, its module, its weights' names, its sockets; see `Family`."""

from prompt_jax.backbones.modernbert.config import MODEL_TYPES as MODEL_TYPES
from prompt_jax.backbones.modernbert.config import PRESETS as PRESETS
from prompt_jax.backbones.modernbert.config import ModernBertConfig as Config
from prompt_jax.backbones.modernbert.config import ModernBertConfig as ModernBertConfig
from prompt_jax.backbones.modernbert.config import from_hugging_face as from_hugging_face
from prompt_jax.backbones.modernbert.config import one_layer as one_layer
from prompt_jax.backbones.modernbert.config import to_hugging_face as to_hugging_face
from prompt_jax.backbones.modernbert.model import ModernBert as Module
from prompt_jax.backbones.modernbert.names import COPIES as COPIES
from prompt_jax.backbones.modernbert.names import TABLES as TABLES
from prompt_jax.backbones.modernbert.names import canonical as canonical
from prompt_jax.backbones.modernbert.names import head_names as head_names
from prompt_jax.backbones.modernbert.names import hugging_face_names as hugging_face_names
from prompt_jax.backbones.modernbert.names import kernel_names as kernel_names
from prompt_jax.backbones.modernbert.names import sockets as sockets
from prompt_jax.backbones.modernbert.names import told_by_weights as told_by_weights
from prompt_jax.backbones.modernbert.names import transposed as transposed

TASK_TYPES = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

__all__ = ["Config", "Module"]
