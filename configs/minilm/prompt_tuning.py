"""Prompt tuning on the sentence encoder MiniLM, with a head of the label words.

prompt-jax train configs/minilm/prompt_tuning.py --backbone FOLDER
"""

from prompt_jax import Config, PromptTuningConfig, TrainConfig

config = Config(
    backbone="sentence-transformers/all-MiniLM-L6-v2",
    out="runs/minilm_prompt_tuning",
    method=PromptTuningConfig(),
    train=TrainConfig(steps=600, optimizer="adamw", learning_rate=3e-2),
)
