"""Sentiment of film sentences, the default of `prompt-jax train`.

prompt-jax train configs/sentiment.py
"""

from prompt_jax.config import Config

config = Config(out="runs/sentiment")
