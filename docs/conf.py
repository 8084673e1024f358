"""Builds the site: `make docs`, or `sphinx-build -W docs docs/_build`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402

import prompt_jax  # noqa: E402

project = "prompt_jax"
release = prompt_jax.__version__
html_title = f"prompt_jax {release}"
html_theme = "furo"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]

myst_heading_anchors = 4
default_role = "code"  # Docstrings write names in single backticks.
autodoc_default_options = {"members": True, "member-order": "bysource"}
napoleon_numpy_docstring = False
# Blocks of commands and of output have no language.
highlight_language = "none"


def setup(app):
    """Writes the reference before Sphinx looks for pages."""
    app.connect("builder-inited", lambda _: generate.write(HERE / "reference"))
    app.connect("autodoc-process-docstring", keep_colons, priority=400)


def keep_colons(app, what, name, obj, options, lines):
    """Napoleon, which is next, would read what a field's text has before a colon as its type."""
    if what == "attribute":
        lines[:0] = ["..", ""]
