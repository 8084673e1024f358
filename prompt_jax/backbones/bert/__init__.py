"""Encoder-only models: BERT, RoBERTa, DistilBERT and DeBERTa, by config and not by copies."""

from prompt_jax.backbones.bert.config import MODEL_TYPES as MODEL_TYPES
from prompt_jax.backbones.bert.config import PRESETS as PRESETS
from prompt_jax.backbones.bert.config import BertConfig as BertConfig
from prompt_jax.backbones.bert.config import BertConfig as Config
from prompt_jax.backbones.bert.config import Distances as Distances
from prompt_jax.backbones.bert.config import from_hugging_face as from_hugging_face
from prompt_jax.backbones.bert.config import one_layer as one_layer
from prompt_jax.backbones.bert.config import to_hugging_face as to_hugging_face
from prompt_jax.backbones.bert.model import Bert as Module
from prompt_jax.backbones.bert.names import COPIES as COPIES
from prompt_jax.backbones.bert.names import TABLES as TABLES
from prompt_jax.backbones.bert.names import canonical as canonical
from prompt_jax.backbones.bert.names import head_names as head_names
from prompt_jax.backbones.bert.names import hugging_face_names as hugging_face_names
from prompt_jax.backbones.bert.names import kernel_names as kernel_names
from prompt_jax.backbones.bert.names import sockets as sockets
from prompt_jax.backbones.bert.names import told_by_weights as told_by_weights
from prompt_jax.backbones.bert.names import transposed as transposed

TASK_TYPES = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

__all__ = ["Config", "Module"]
