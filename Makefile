# The commands of every day. `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help install train lint test slow docs ci wheel

help:  ## list these commands
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install:  ## a virtual environment in .venv with all that tests need
	python3 -m venv .venv && .venv/bin/pip install -e ".[test,dev]"

train:  ## tune a prompt on the embedded task
	.venv/bin/prompt-jax train

lint:  ## format, lint and check types
	.venv/bin/ruff format . && .venv/bin/ruff check . && .venv/bin/pyright

test:  ## the default suite, minutes
	.venv/bin/python -m pytest

slow:  ## the slow tests too, half an hour
	.venv/bin/python -m pytest -m slow --dist worksteal

docs:  ## the site, in docs/_build/index.html
	test -d .venv || python3 -m venv .venv
	.venv/bin/pip install --quiet -e ".[docs]"
	.venv/bin/sphinx-build -W --keep-going --quiet docs docs/_build

ci:  ## everything, as CI runs it
	bash .ci/run

wheel:  ## the package as a file, in dist/
	.venv/bin/pip wheel --no-deps --wheel-dir dist .
