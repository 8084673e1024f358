"""T5 1.1 small (77M), LM-adapted, on SuperGLUE as Lester et al. 2021 tuned it.

prompt-jax train configs/lester2021/small.py
prompt-jax train configs/lester2021/small.py --data.task tfds:super_glue/rte --out runs/small_rte

One chip of a TPU v5e holds it: 5.67 of 15.75 GiB, as compiled by

prompt-jax plan configs/lester2021/small.py --backbone t5_1_1_small --topology v5e-1

The paper prints no number of this size; in its figure 1 the SuperGLUE average on validation
is about that of GPT-3 XL with few shots.
Not run here: it takes the weights and an accelerator.
"""

from prompt_jax import (
    Config,
    DataConfig,
    MeshConfig,
    PromptTuningConfig,
    TrainConfig,
)

config = Config(
    backbone="google/t5-small-lm-adapt",
    out="runs/lester2021/small_boolq",
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
