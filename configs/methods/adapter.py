"""Houlsby's bottleneck adapters.

prompt-jax train configs/methods/adapter.py [--data.task TASK]
"""

from prompt_jax import AdapterConfig, Config

config = Config(out="runs/adapter", method=AdapterConfig(style="houlsby"))
