"""PEFT's adapter folder and back: one file a format, each with both ways, and a table of them."""

from prompt_jax.prompts.peft.files import ADAPTER_CONFIG as ADAPTER_CONFIG
from prompt_jax.prompts.peft.files import ADAPTER_PICKLE as ADAPTER_PICKLE
from prompt_jax.prompts.peft.files import ADAPTER_WEIGHTS as ADAPTER_WEIGHTS
from prompt_jax.prompts.peft.files import KEY as KEY
from prompt_jax.prompts.peft.files import Stored as Stored
from prompt_jax.prompts.peft.files import matrix as matrix
from prompt_jax.prompts.peft.files import read_weights as read_weights
from prompt_jax.prompts.peft.formats import PEFT_TYPES as PEFT_TYPES
from prompt_jax.prompts.peft.formats import PEFT_VERSION as PEFT_VERSION
from prompt_jax.prompts.peft.formats import TASK_TYPES as TASK_TYPES
from prompt_jax.prompts.peft.formats import Adapter as Adapter
from prompt_jax.prompts.peft.formats import adapter_config as adapter_config
from prompt_jax.prompts.peft.formats import obstacle as obstacle
from prompt_jax.prompts.peft.formats import read_adapter as read_adapter
from prompt_jax.prompts.peft.formats import weights as weights
