"""One experiment, from config to saved prompt."""

from prompt_jax.experiment.attempt import compose_attention, train_attention
from prompt_jax.experiment.compare import CompareOptions, compare_methods
from prompt_jax.experiment.conclude import Result
from prompt_jax.experiment.distil import distil, distil_lengths
from prompt_jax.experiment.evaluation import (
    FROZEN,
    TUNED,
    evaluate_ensemble,
    evaluate_prompt,
    score_ways,
)
from prompt_jax.experiment.splits import Data, load_data
from prompt_jax.experiment.sweep import sweep
from prompt_jax.experiment.training import train, train_seeds, train_tasks

__all__ = [
    "FROZEN",
    "TUNED",
    "CompareOptions",
    "Data",
    "Result",
    "compare_methods",
    "compose_attention",
    "distil",
    "distil_lengths",
    "evaluate_ensemble",
    "evaluate_prompt",
    "load_data",
    "score_ways",
    "sweep",
    "train",
    "train_attention",
    "train_seeds",
    "train_tasks",
]
