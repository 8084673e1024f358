"""BitFit: a trained bias behind every kernel.

prompt-jax train configs/methods/bias.py [--data.task TASK]
"""

from prompt_jax import BiasConfig, Config

config = Config(out="runs/bias", method=BiasConfig())
