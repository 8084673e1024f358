"""One experiment, from config to saved prompt."""

from prompt_jax.experiment.attention import attend, compose_attention
from prompt_jax.experiment.compare import (
    FROZEN,
    TUNED,
    compare,
    evaluate_ensemble,
    evaluate_prompt,
)
from prompt_jax.experiment.data import Data, load_data
from prompt_jax.experiment.methods import compare_methods
from prompt_jax.experiment.run import Result, train

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
    "train",
]
