"""Decoding with a cache: `generate` writes targets, `score` weighs candidates."""

from prompt_jax.generate.decoding import generate as generate
from prompt_jax.generate.prefill import read_ahead as read_ahead
from prompt_jax.generate.prefill import read_once as read_once
from prompt_jax.generate.scoring import one_mask as one_mask
from prompt_jax.generate.scoring import score as score
from prompt_jax.generate.scoring import score_candidates as score_candidates
from prompt_jax.generate.stops import first_stop as first_stop
