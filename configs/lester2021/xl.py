"""T5 1.1 xl (2.8B), LM-adapted, on SuperGLUE as Lester et al. 2021 tuned it.

prompt-jax train configs/lester2021/xl.py
prompt-jax train configs/lester2021/xl.py --data.task tfds:super_glue/rte --out runs/xl_rte

What it takes of a chip is told by

prompt-jax plan configs/lester2021/xl.py --backbone t5_1_1_xl --topology v5e-4

The paper prints no number of this size; in its figure 1 the SuperGLUE average on validation
is between those of large and of XXL, 90.5.
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
    backbone="google/t5-xl-lm-adapt",
    out="runs/lester2021/xl_boolq",
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
