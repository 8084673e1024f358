"""Headlines of news or of satire.

prompt-jax train configs/headline_satire.py
"""

from prompt_jax.config import Config, DataConfig

config = Config(out="runs/headline_satire", data=DataConfig(task="embedded:headline_satire"))
