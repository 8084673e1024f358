import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_ci_runs_the_commands_of_the_readme():
    readme, script = ((ROOT / name).read_text() for name in ("README.md", ".ci/run"))
    assert "pip install -e . && prompt-jax train" in readme
    assert 'pip install -e ".[test]" && pytest' in readme
    for command in ("python3 -m venv .venv", ". .venv/bin/activate", "prompt-jax train", "pytest"):
        assert command in readme and command in script


def test_the_version_stands_in_all_files_alike():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text()
