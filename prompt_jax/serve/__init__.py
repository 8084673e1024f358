"""Many prompts over one frozen model, each row of a batch with its own."""

from prompt_jax.serve.bank import Bank as Bank
from prompt_jax.serve.engine import Engine as Engine
from prompt_jax.serve.ensembles import Ensembled as Ensembled
from prompt_jax.serve.errors import DeadlineError as DeadlineError
from prompt_jax.serve.errors import EngineError as EngineError
from prompt_jax.serve.errors import PoisonedPromptError as PoisonedPromptError
from prompt_jax.serve.errors import PromptRefusedError as PromptRefusedError
from prompt_jax.serve.errors import QueueFullError as QueueFullError
from prompt_jax.serve.errors import TooLongError as TooLongError
from prompt_jax.serve.errors import TooManyPromptsError as TooManyPromptsError
from prompt_jax.serve.errors import UnknownPromptError as UnknownPromptError
from prompt_jax.serve.prompts import Served as Served
from prompt_jax.serve.requests import Kind as Kind
from prompt_jax.serve.sampling import Written as Written
from prompt_jax.serve.scoring import Classified as Classified
from prompt_jax.serve.scoring import Embedded as Embedded
from prompt_jax.serve.scoring import Marked as Marked
from prompt_jax.serve.scoring import Scored as Scored
from prompt_jax.serve.slots import layout_of as layout_of
from prompt_jax.serve.store import Store as Store
from prompt_jax.serve.worker import Stats as Stats
