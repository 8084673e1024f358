"""`python -m prompt_jax` is `prompt-jax`."""

import sys

from prompt_jax.cli import main

sys.exit(main())
