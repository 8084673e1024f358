"""The face that people who come from PEFT know: a frozen backbone with a prompt in front."""

from prompt_jax.model.prompted import Output as Output
from prompt_jax.model.prompted import PromptTuningModel as PromptTuningModel
