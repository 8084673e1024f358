"""The package is written as it says it is: names of things, real types, a map that is true."""

import re
import runpy
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).parent.parent


def test_names_are_of_things():
    names = house.grammar_names()
    assert len(names) <= house.lines() / 1000, "\n".join(names)


def test_types_are_real():
    assert len(house.anys()) <= 10 * house.lines() / 1000


def test_the_map_is_drawn_from_the_imports():
    """`python tests/house.py picture` draws it again."""
    assert house.picture() == house.PICTURE.read_text()


def test_files_that_the_maps_name_are_there():
    for page in (ROOT / "docs" / "architecture.md", ROOT / "prompt_jax" / "README.md"):
        for word in page.read_text().split("`")[1::2]:
            if "/" in word and " " not in word and word.endswith((".py", "/")):
                places = (ROOT / word, ROOT / "prompt_jax" / word)
                assert any(place.exists() for place in places), f"{page.name}: {word}"


PAGE = ROOT / "examples" / "whole_idea.py"


def test_the_whole_idea_fits_on_a_page():
    assert PAGE.read_text().count("\n") < 80


@pytest.mark.slow
def test_the_page_trains(capsys):
    scores = runpy.run_path(str(PAGE))["main"](steps=51, held_out=20)
    losses = re.findall(r"step +(\d+)  loss ([\d.]+)", capsys.readouterr().out)
    assert [step for step, _ in losses] == ["0", "50"]
    assert float(losses[1][1]) < float(losses[0][1]) / 2
    assert all(0 < score < 1 for score in scores)
