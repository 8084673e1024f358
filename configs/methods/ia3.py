"""IA3.

prompt-jax train configs/methods/ia3.py [--data.task TASK]
"""

from prompt_jax import Config, IA3Config

config = Config(out="runs/ia3", method=IA3Config())
