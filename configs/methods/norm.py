"""A trained factor on every norm.

prompt-jax train configs/methods/norm.py [--data.task TASK]
"""

from prompt_jax import Config, NormConfig

config = Config(out="runs/norm", method=NormConfig())
