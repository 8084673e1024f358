"""SST-2 on the LM-adapted T5 1.1 base, as Lester et al. 2021 tuned it: for one accelerator.

prompt-jax train configs/sst2_t5_base.py
"""

from prompt_jax import Config, DataConfig, PromptTuningConfig, TrainConfig

config = Config(
    backbone="google/t5-base-lm-adapt",
    out="runs/sst2_t5_base",
    method=PromptTuningConfig(num_virtual_tokens=100, init="class_labels"),
    data=DataConfig(task="tfds:glue/sst2", max_source_length=128),
    train=TrainConfig(
        steps=30_000,
        schedule="constant",
        eval_every=1000,
        checkpoint_every=1000,
        eval_examples=None,
    ),
)
