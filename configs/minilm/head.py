"""A head of the label words on the sentence encoder MiniLM, and nothing else.

prompt-jax train configs/minilm/head.py --backbone FOLDER
"""

from prompt_jax import Config, HeadConfig, TrainConfig

config = Config(
    backbone="sentence-transformers/all-MiniLM-L6-v2",
    out="runs/minilm_head",
    method=HeadConfig(),
    train=TrainConfig(head_learning_rate=1e-2),
)
