"""T5 1.1 xxl (11B), LM-adapted, on SuperGLUE as Lester et al. 2021 tuned it.

prompt-jax train configs/lester2021/xxl.py
prompt-jax train configs/lester2021/xxl.py --data.task tfds:super_glue/rte --out runs/xxl_rte

Four chips of a TPU v5e hold it, with what products gave kept for the backward pass: 14.79 of 15.75
GiB of each, as compiled by

prompt-jax plan configs/lester2021/xxl.py --backbone t5_1_1_xxl --topology v5e-4

On validation to expect, the average of five prompts in the paper's table 3: BoolQ 91.1, CB 99.3,
COPA 98.8, MultiRC F1a 88.7, RTE 92.6, WiC 76.2; SuperGLUE as a whole 90.5, and 91.3 with all five
voting.
Not run here: it takes the weights and an accelerator.
"""

from prompt_jax import (
    BackboneConfig,
    Config,
    DataConfig,
    MeshConfig,
    PromptTuningConfig,
    TrainConfig,
)

config = Config(
    backbone="google/t5-xxl-lm-adapt",
    out="runs/lester2021/xxl_boolq",
    frozen=BackboneConfig(remat="auto"),
    mesh=MeshConfig(fsdp="auto", tensor="auto"),
    method=PromptTuningConfig(num_virtual_tokens=100, init="class_labels"),
    data=DataConfig(task="tfds:super_glue/boolq", max_source_length=412, max_target_length=16),
    train=TrainConfig(
        steps=30_000,
        schedule="constant",
        eval_every=1000,
        checkpoint_every=1000,
        eval_examples=None,
    ),
)
