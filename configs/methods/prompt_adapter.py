"""A branch beside every feed-forward that virtual tokens feed.

prompt-jax train configs/methods/prompt_adapter.py [--data.task TASK]
"""

from prompt_jax import Config, PromptAdapterConfig

config = Config(out="runs/prompt_adapter", method=PromptAdapterConfig())
