"""T5 1.1 large (783M), LM-adapted, on SuperGLUE as Lester et al. 2021 tuned it.

prompt-jax train configs/lester2021/large.py
prompt-jax train configs/lester2021/large.py --data.task tfds:super_glue/rte --out runs/large_rte

What it takes of a chip is told by

prompt-jax plan configs/lester2021/large.py --backbone t5_1_1_large --topology v5e-1

The paper prints no number of this size; in its figure 1 the SuperGLUE average on validation
is above that of GPT-3 175B with few shots, 71.8.
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
    backbone="google/t5-large-lm-adapt",
    out="runs/lester2021/large_boolq",
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
