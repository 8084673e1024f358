"""What may become of a request: errors for its caller alone, whose own mistakes are InputErrors."""

from prompt_jax.config import InputError


class UnknownPromptError(InputError):
    """There is no prompt of this name.

    Args:
      problem: what there is not.
      listed: what there is instead, for those who may know all of it; a server leaves it out.
    """

    def __init__(self, problem: str, listed: str = ""):
        super().__init__(f"{problem}; {listed}" if listed else problem)
        self.problem = problem


class PromptRefusedError(InputError):
    """A prompt that the engine cannot hold: of another backbone, too large, not one row's alone."""


class PoisonedPromptError(InputError):
    """A prompt that holds or makes NaN or infinity; refused until it is replaced."""


class TooLongError(InputError):
    """An input or an answer of more tokens than there is room for."""


class TooManyPromptsError(InputError):
    """A request of more prompts than there are slots."""


class QueueFullError(RuntimeError):
    """So many requests wait that another one is not taken; try again later."""

    after = 0.0
    """Seconds until another try is worth it; 0 where nobody knows."""


class DeadlineError(TimeoutError):
    """The answer was not there in time."""


class EngineError(RuntimeError):
    """The engine is closed, or came to an end by itself."""


class ChangedError(InputError):
    """Somebody else changed the prompt in the meantime."""


class StoreError(InputError):
    """The store is not there, or cannot be read; what is served stays."""
