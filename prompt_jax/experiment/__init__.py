"""One experiment, from config to saved prompt."""

from prompt_jax.experiment.compare import FROZEN, TUNED, compare, evaluate_prompt
from prompt_jax.experiment.data import Data, load_data
from prompt_jax.experiment.methods import compare_methods
from prompt_jax.experiment.run import Result, train

__all__ = [
    "FROZEN",
    "TUNED",
    "Data",
    "Result",
    "compare",
    "compare_methods",
    "evaluate_prompt",
    "load_data",
    "train",
]
