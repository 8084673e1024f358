"""Prefix tuning of all three attentions.

prompt-jax train configs/methods/prefix_tuning.py [--data.task TASK]
"""

from prompt_jax import Config, PrefixTuningConfig

config = Config(out="runs/prefix_tuning", method=PrefixTuningConfig())
