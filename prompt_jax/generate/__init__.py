"""Decoding with a cache: `generate` writes targets, `score` weighs given ones."""

from prompt_jax.generate.answers import Answers as Answers
from prompt_jax.generate.answers import Progress as Progress
from prompt_jax.generate.answers import Reading as Reading
from prompt_jax.generate.answers import answer as answer
from prompt_jax.generate.decoding import generate as generate
from prompt_jax.generate.ensemble import ask_each as ask_each
from prompt_jax.generate.ensemble import combine as combine
from prompt_jax.generate.ensemble import ensemble as ensemble
from prompt_jax.generate.ensemble import fit_weights as fit_weights
from prompt_jax.generate.likelihood import target_likelihood as target_likelihood
from prompt_jax.generate.prefill import read_once as read_once
from prompt_jax.generate.reading import classify as classify
from prompt_jax.generate.scoring import score as score
