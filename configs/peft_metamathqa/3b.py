"""Llama 3.2 3B learns to reason on MetaMathQA, as PEFT's comparison of methods trains it.

prompt-jax train configs/peft_metamathqa/3b.py --method prefix_tuning

5,000 steps of 4 rows with AdamW; `paper.py` beside this file has a run for each method.
Not run here: it takes the weights and an accelerator.
"""

from prompt_jax import BackboneConfig, Config, DataConfig, EvalConfig, TaskConfig, TrainConfig

config = Config(
    backbone="meta-llama/Llama-3.2-3B",
    out="runs/peft_metamathqa/3b",
    frozen=BackboneConfig(dtype="bfloat16", remat="auto"),
    data=DataConfig(
        task="hf:meta-math/MetaMathQA:train[50:]",
        validation="hf:meta-math/MetaMathQA:train[:50]",
        max_source_length=384,
        max_target_length=384,
    ),
    task=TaskConfig(
        source="Question: {query} Think step by step.\nAnswer:",
        target="{response}",
        kind="generation",
        metrics=("last_number",),
    ),
    train=TrainConfig(
        steps=5000,
        batch_size=4,
        optimizer="adamw",
        learning_rate=1e-4,
        weight_decay=0.1,
        schedule="cosine",
        eval_every=250,
        checkpoint_every=250,
    ),
    eval=EvalConfig(max_new_tokens=384),
)
