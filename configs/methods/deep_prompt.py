"""Per-layer prompts of the encoder.

prompt-jax train configs/methods/deep_prompt.py [--data.task TASK]
"""

from prompt_jax import Config, DeepPromptConfig

config = Config(out="runs/deep_prompt", method=DeepPromptConfig(num_virtual_tokens=10))
