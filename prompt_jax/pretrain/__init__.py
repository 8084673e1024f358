"""Pretraining of small T5s that soft prompts can steer, from text files alone."""

from prompt_jax.pretrain.config import PretrainConfig as PretrainConfig
from prompt_jax.pretrain.run import pretrain as pretrain
