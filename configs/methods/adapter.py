"""Houlsby's bottleneck adapters.

prompt-jax train configs/methods/adapter.py [--data.task TASK]
"""

from prompt_jax.config import AdapterConfig, Config

config = Config(out="runs/adapter", method=AdapterConfig(style="houlsby"))
