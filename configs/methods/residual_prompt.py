"""Residual prompt tuning.

prompt-jax train configs/methods/residual_prompt.py [--data.task TASK]
"""

from prompt_jax import Config, ResidualPromptConfig

config = Config(out="runs/residual_prompt", method=ResidualPromptConfig())
