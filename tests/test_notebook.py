"""The notebook runs from its first cell to its last, on the model that ships."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "colab" / "tune_a_prompt.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    install, *rest = cells
    assert "pip install" in install.source
    install.source = ""  # this checkout is what is tested
    training = next(cell for cell in rest if "steps = 300" in cell.source)
    training.source = training.source.replace("steps = 300", "steps = 4")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(
        output.get("text", "") for cell in rest for output in cell.outputs if "text" in output
    )
    assert "gradient: {'prompt': (20, 256)}" in printed
    assert "| tuned prompt |" in printed
    assert (tmp_path / "runs" / "notebook" / "prompt" / "prompt_jax_config.json").is_file()
    answers = rest[-1].outputs[-1]["text"]
    assert answers.count("positive") + answers.count("negative") == 2
    pictures = [o for cell in rest for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 1
