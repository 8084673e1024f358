"""T5 1.1 base (248M), LM-adapted, on SuperGLUE as Lester et al. 2021 tuned it.

prompt-jax train configs/lester2021/base.py
prompt-jax train configs/lester2021/base.py --data.task tfds:super_glue/rte --out runs/base_rte

What it takes of a chip, and what it keeps there for the backward pass, is told by

prompt-jax plan configs/lester2021/base.py --backbone t5_1_1_base --topology v5e-1

On validation to expect (average of runs with this loss on the released base model, as the authors'
code reports): BoolQ 71.3, CB 78.2, COPA 48.4, WiC 61.1.
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
    backbone="google/t5-base-lm-adapt",
    out="runs/lester2021/base_boolq",
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
