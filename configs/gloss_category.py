"""WordNet noun glosses into ten kinds of thing.

prompt-jax train configs/gloss_category.py
"""

from prompt_jax.config import Config, DataConfig

config = Config(out="runs/gloss_category", data=DataConfig(task="embedded:gloss_category"))
