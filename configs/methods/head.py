"""A trained head and nothing else, on a model that reads: the baseline of the other methods there.

prompt-jax train configs/methods/head.py --backbone sentence-transformers/all-MiniLM-L6-v2
"""

from prompt_jax.config import Config, HeadConfig, TrainConfig

config = Config(out="runs/head", method=HeadConfig(), train=TrainConfig(head_learning_rate=1e-2))
