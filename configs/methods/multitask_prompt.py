"""One prompt for three tasks, and each task's factor of it (MPT); a prompt of each is saved too.

prompt-jax train configs/methods/multitask_prompt.py
"""

from prompt_jax import Config, DataConfig, MultitaskPromptConfig

config = Config(
    out="runs/multitask_prompt",
    method=MultitaskPromptConfig(num_virtual_tokens=20, num_tasks=3),
    data=DataConfig(
        task="embedded:sentiment", mixture=("embedded:headline_satire", "embedded:factbook_topic")
    ),
)
