"""P-tuning v2 on the sentence encoder MiniLM, with a head of the label words.

prompt-jax train configs/minilm/p_tuning_v2.py --backbone FOLDER
"""

from prompt_jax import Config, PTuningV2Config, TrainConfig

config = Config(
    backbone="sentence-transformers/all-MiniLM-L6-v2",
    out="runs/minilm_p_tuning_v2",
    method=PTuningV2Config(),
    train=TrainConfig(optimizer="adamw", learning_rate=3e-2),
)
