"""A frozen model with a prompt: what the prompt puts into the model, and how the two run."""

from prompt_jax.forward.head import apply_head as apply_head
from prompt_jax.forward.injection import Injection as Injection
from prompt_jax.forward.injection import Placement as Placement
from prompt_jax.forward.injection import TaskPrompts as TaskPrompts
from prompt_jax.forward.injection import for_tasks as for_tasks
from prompt_jax.forward.injection import only_real as only_real
from prompt_jax.forward.injection import prepend as prepend
from prompt_jax.forward.injection import read_in as read_in
from prompt_jax.forward.injection import text_mask as text_mask
from prompt_jax.forward.injection import text_states as text_states
from prompt_jax.forward.injection import variables as variables
