"""Full fine-tuning, what the others are compared with.

prompt-jax train configs/methods/full.py [--data.task TASK]
"""

from prompt_jax import Config, FullConfig

config = Config(out="runs/full", method=FullConfig())
