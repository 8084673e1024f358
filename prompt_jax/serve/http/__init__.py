"""The engine over HTTP: OpenAI's routes, its own, and those of who operates it (extra `serve`)."""

from prompt_jax.serve.http.app import create_app as create_app
from prompt_jax.serve.http.keys import Keys as Keys
