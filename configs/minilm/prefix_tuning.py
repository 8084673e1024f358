"""Prefix tuning on the sentence encoder MiniLM, with a head of the label words.

prompt-jax train configs/minilm/prefix_tuning.py --backbone FOLDER
"""

from prompt_jax import Config, PrefixTuningConfig, TrainConfig

config = Config(
    backbone="sentence-transformers/all-MiniLM-L6-v2",
    out="runs/minilm_prefix_tuning",
    method=PrefixTuningConfig(),
    train=TrainConfig(optimizer="adamw", learning_rate=3e-2),
)
