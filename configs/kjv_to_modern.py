"""Verses of the King James Bible into modern English: generation, not classification.

prompt-jax train configs/kjv_to_modern.py
"""

from prompt_jax.config import Config, DataConfig, EvalConfig, TrainConfig

config = Config(
    out="runs/kjv_to_modern",
    data=DataConfig(task="embedded:kjv_to_modern", max_source_length=96, max_target_length=96),
    train=TrainConfig(eval_every=100, eval_examples=64),
    eval=EvalConfig(max_new_tokens=96),
)
