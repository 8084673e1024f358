"""One experiment, from config to saved prompt."""

from prompt_jax.experiment.attention import attend, compose_attention
from prompt_jax.experiment.compare import (
    FROZEN,
    TUNED,
    compare,
    evaluate_ensemble,
    evaluate_prompt,
)
from prompt_jax.experiment.conclude import Result
from prompt_jax.experiment.data import Data, load_data
from prompt_jax.experiment.methods import compare_methods
from prompt_jax.experiment.run import train
from prompt_jax.experiment.sweep import sweep
from prompt_jax.experiment.tasks import train_tasks

__all__ = [
    "FROZEN",
    "TUNED",
    "Data",
    "Result",
    "attend",
    "compare",
    "compare_methods",
    "compose_attention",
    "evaluate_ensemble",
    "evaluate_prompt",
    "load_data",
    "sweep",
    "train",
    "train_tasks",
]
