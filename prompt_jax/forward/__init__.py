"""A frozen model with a prompt: what the prompt puts into the model, and how the two run."""

from prompt_jax.forward.head import apply_head as apply_head
from prompt_jax.forward.injection import Injection as Injection
from prompt_jax.forward.injection import Placement as Placement
from prompt_jax.forward.injection import TaskPrompts as TaskPrompts
from prompt_jax.forward.injection import for_tasks as for_tasks
from prompt_jax.forward.injection import only_real as only_real
from prompt_jax.forward.places import check_places as check_places
from prompt_jax.forward.places import positions_before as positions_before
from prompt_jax.forward.prompted import Prefilled as Prefilled
from prompt_jax.forward.prompted import PromptedModel as PromptedModel
from prompt_jax.forward.prompted import at_places as at_places
from prompt_jax.forward.prompted import prepend as prepend
