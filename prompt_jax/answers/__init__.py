"""The kinds of answers, a file each: how each one is learned, given, read and judged.

A new kind is a file here and its row in `prompt_jax.config.KINDS`.
"""

from prompt_jax.answers.answering import Progress as Progress
from prompt_jax.answers.answering import answer as answer
from prompt_jax.answers.answering import check_words as check_words
from prompt_jax.answers.answering import tokenizer_of as tokenizer_of
from prompt_jax.answers.classes import classify as classify
from prompt_jax.answers.ensemble import ask_each as ask_each
from prompt_jax.answers.ensemble import combine as combine
from prompt_jax.answers.ensemble import ensemble as ensemble
from prompt_jax.answers.ensemble import fit_weights as fit_weights
from prompt_jax.answers.heads import head_for as head_for
from prompt_jax.answers.heads import head_of as head_of
from prompt_jax.answers.heads import heads as heads
from prompt_jax.answers.heads import readout_for as readout_for
from prompt_jax.answers.heads import readout_in as readout_in
from prompt_jax.answers.readout import Answers as Answers
from prompt_jax.answers.readout import Candidates as Candidates
from prompt_jax.answers.readout import Head as Head
from prompt_jax.answers.readout import LossOptions as LossOptions
from prompt_jax.answers.readout import Reading as Reading
from prompt_jax.answers.readout import Readout as Readout
from prompt_jax.answers.words import label_loss as label_loss
from prompt_jax.answers.written import cross_entropy as cross_entropy
from prompt_jax.answers.written import mean_loss as mean_loss
from prompt_jax.answers.written import target_likelihood as target_likelihood
