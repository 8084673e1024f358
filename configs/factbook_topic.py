"""Passages of the CIA World Factbook into six sections.

prompt-jax train configs/factbook_topic.py
"""

from prompt_jax.config import Config, DataConfig

config = Config(out="runs/factbook_topic", data=DataConfig(task="embedded:factbook_topic"))
