"""The T5 family: its config, its module, its weights' names, its sockets."""

from prompt_jax.backbones.t5.blocks import LayerCache as LayerCache
from prompt_jax.backbones.t5.blocks import unstack as unstack
from prompt_jax.backbones.t5.config import PRESETS as PRESETS
from prompt_jax.backbones.t5.config import T5Config as T5Config
from prompt_jax.backbones.t5.config import from_hugging_face as from_hugging_face
from prompt_jax.backbones.t5.model import T5 as T5
from prompt_jax.backbones.t5.model import empty_cache as empty_cache
from prompt_jax.backbones.t5.model import init_params as init_params
from prompt_jax.backbones.t5.model import keys_and_values as keys_and_values
from prompt_jax.backbones.t5.model import shift_right as shift_right
from prompt_jax.backbones.t5.names import hugging_face_names as hugging_face_names
from prompt_jax.backbones.t5.names import sockets as sockets
