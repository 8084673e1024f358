"""Many prompts over one frozen model, each row of a batch with its own."""

from prompt_jax.serve.bank import Bank as Bank
from prompt_jax.serve.bank import layout_of as layout_of
