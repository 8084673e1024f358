"""Rows that the upper layers attend to behind a zero gate (LLaMA-Adapter).

prompt-jax train configs/methods/adaption_prompt.py [--data.task TASK]
"""

from prompt_jax import AdaptionPromptConfig, Config

config = Config(out="runs/adaption_prompt", method=AdaptionPromptConfig())
