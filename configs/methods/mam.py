"""Mix-and-match: a prefix and an adapter beside the feed-forward, in one tuned tree.

prompt-jax train configs/methods/mam.py [--data.task TASK]
"""

from prompt_jax.config import Config
from prompt_jax.methods import mam

config = Config(out="runs/mam", method=mam())
